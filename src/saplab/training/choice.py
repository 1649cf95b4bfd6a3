"""What a user chooses about a training run, in the words of the command line."""

import shlex
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from saplab.defenses import Dropout, parse_defenses
from saplab.models.zoo import ARCHITECTURES
from saplab.system.precision import PRECISION_CHOICES
from saplab.system.words import did_you_mean
from saplab.training.objectives import Noisy
from saplab.training.recipes import Recipe, find_recipe


@dataclass(frozen=True)
class Choice:
    """A recipe's name and preset, and what to change in it, by the options of ``saplab train``.

    None and "" leave what the recipe says.
    """

    recipe: str
    preset: str
    network: str | None = None
    rate: float | None = None
    std: float | None = None
    defense: str = ""
    epochs: int | None = None
    batch: int | None = None
    validation: int | None = None
    precision: str | None = None

    def options(self) -> dict[str, str]:
        """Return the command line options, other than the preset, that express the choice, with their values."""
        chosen = {name: value for name, value in asdict(self).items() if name not in ("recipe", "preset")}
        return {f"--{name}": str(value) for name, value in chosen.items() if value not in (None, "")}

    def command(self, data: str = "cifar10:DIR", processes: int = 1, **others: int | str | bool | None) -> str:
        """Return the command that trains so; `others` are options that do not belong to the recipe, True for a flag."""
        launcher = ("torchrun", "--nproc-per-node", str(processes), "-m") if processes > 1 else ()
        options: dict[str, Any] = {"--preset": self.preset, **self.options(), "--data": data}
        options |= {f"--{name.replace('_', '-')}": value for name, value in others.items() if value is not None}
        pairs = ((name,) if value is True else (name, str(value)) for name, value in options.items())
        return shlex.join([*launcher, "saplab", "train", self.recipe, *chain.from_iterable(pairs)])

    def folder(self) -> str:
        """Return the name of a folder for the run, a different one for each choice."""
        options = {name.lstrip("-"): value.replace(":", "-") for name, value in self.options().items()}
        named = (f"{name}-{value}" if value[0].isdigit() else value for name, value in options.items())
        return "-".join((self.recipe, self.preset, *named))

    def resolve(self) -> Recipe:
        """Return the recipe with what was chosen otherwise; ValueError for a name or choice that does not fit."""
        recipe = find_recipe(self.recipe, self.preset)
        if self.network not in (None, *ARCHITECTURES):
            wanted = f"`network` must be one of {', '.join(ARCHITECTURES)}, got {self.network!r}"
            raise ValueError(wanted + did_you_mean(str(self.network), ARCHITECTURES))
        if self.rate is not None and self.recipe != "dropout":
            raise ValueError(f"`rate` belongs to the recipe 'dropout', got it for {self.recipe!r}")
        if self.std is not None and self.recipe != "gaussian":
            raise ValueError(f"`std` belongs to the recipe 'gaussian', got it for {self.recipe!r}")
        if self.precision not in (None, *PRECISION_CHOICES):
            raise ValueError(f"`precision` must be one of {', '.join(PRECISION_CHOICES)}, got {self.precision!r}")
        own = recipe.defenses if self.rate is None else (Dropout(self.rate),)
        changes: dict[str, Any] = {
            "network": self.network,
            "objective": None if self.std is None else Noisy(self.std),
            "defenses": (*own, *parse_defenses(self.defense)),
            "epochs": self.epochs,
            "batch": self.batch,
            "held_out": self.validation,
            "precision": self.precision,
        }
        return replace(recipe, **{name: value for name, value in changes.items() if value is not None})

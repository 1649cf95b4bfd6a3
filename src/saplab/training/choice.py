"""What a user chooses about a training run, in the words of the command line."""

import shlex
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Choice:
    """A recipe's name and preset, and what to change in it, by the options of ``saplab train``.

    None and "" leave what the recipe says.
    """

    recipe: str
    preset: str
    network: str | None = None
    rate: float | None = None
    defense: str = ""
    epochs: int | None = None
    batch: int | None = None
    validation: int | None = None
    precision: str | None = None

    def options(self) -> dict[str, str]:
        """Return the command line options, other than the preset, that express the choice, with their values."""
        chosen = {name: value for name, value in asdict(self).items() if name not in ("recipe", "preset")}
        return {f"--{name}": str(value) for name, value in chosen.items() if value not in (None, "")}

    def command(self, data: str = "cifar10:DIR", processes: int = 1, **others: int | str | None) -> str:
        """Return the command that trains so; `others` are options that do not belong to the recipe."""
        launcher = ("torchrun", "--nproc-per-node", str(processes), "-m") if processes > 1 else ()
        options = {"--preset": self.preset, **self.options(), "--data": data}
        options |= {f"--{name.replace('_', '-')}": str(value) for name, value in others.items() if value is not None}
        words = (word for pair in options.items() for word in pair)
        return shlex.join([*launcher, "saplab", "train", self.recipe, *words])

    def folder(self) -> str:
        """Return the name of a folder for the run, a different one for each choice."""
        return "-".join((self.recipe, self.preset, *(value.replace(":", "-") for value in self.options().values())))

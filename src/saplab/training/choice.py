"""What a person chooses about a training run, in the words of the command line."""

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A recipe's name and preset, and what is to be other than they say; None and "" leave it as it is.

    Args:
        recipe, preset: names.
        network: an architecture's name.
        rate: of dropout, for that recipe.
        defense: train through it, such as ``sap:100``.
        epochs, batch, validation: numbers of epochs, of images in a step, of training images held out.
        precision: of the network's arithmetic, ``float32`` or ``bfloat16``.
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
        """Give the options beside the preset that say so, with their values."""
        names = ("network", "rate", "defense", "epochs", "batch", "validation", "precision")
        values = {name: getattr(self, name) for name in names}
        return {f"--{name}": str(value) for name, value in values.items() if value not in (None, "")}

    def command(self, data: str = "cifar10:DIR", processes: int = 1, **others: int | str | None) -> str:
        """Give the command that trains so; `others` are options that do not belong to the recipe."""
        launcher = ("torchrun", "--nproc-per-node", str(processes), "-m") if processes > 1 else ()
        options = {"--preset": self.preset, **self.options(), "--data": data}
        options |= {f"--{name.replace('_', '-')}": str(value) for name, value in others.items() if value is not None}
        return shlex.join(
            [*launcher, "saplab", "train", self.recipe, *(text for pair in options.items() for text in pair)]
        )

    def folder(self) -> str:
        """Give a folder's name for the run: one for each choice."""
        return "-".join((self.recipe, self.preset, *(value.replace(":", "-") for value in self.options().values())))

"""How a network is trained, as data.

Source of ``paper``: Dhillon et al. 2018, "Stochastic activation pruning for robust adversarial defense", section 4 and
appendix. ``small`` is this package's own, for two CPU cores; ``smoke`` only shows that the parts fit together.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Steps:
    """A constant learning rate for a number of epochs, then the next: ``(rate, epochs)`` pairs."""

    parts: tuple[tuple[float, int], ...]

    def rate(self, progress: float, epochs: int) -> float:
        """Give the rate after ``progress`` epochs; beyond the last part, the last part's."""
        end = 0
        for rate, length in self.parts:
            end += length
            if progress < end:
                return rate
        return self.parts[-1][0]


@dataclass(frozen=True)
class WarmupLinear:
    """A learning rate that climbs linearly from 0 to ``peak`` over ``warmup`` epochs and falls linearly to 0."""

    peak: float
    warmup: float

    def rate(self, progress: float, epochs: int) -> float:
        """Give the rate after ``progress`` of ``epochs`` epochs."""
        return self.peak * min(progress / self.warmup, (epochs - progress) / (epochs - self.warmup))


@dataclass(frozen=True)
class Recipe:
    """Everything about a training run that is not its data, its seed or its machine.

    Args:
        name, preset: as on the command line.
        epochs: times that every training image is seen.
        batch: images in one step of gradient descent; an epoch's incomplete last batch is left out.
        schedule: the learning rate.
        momentum, nesterov, weight_decay: of stochastic gradient descent; the decay acts on every parameter.
        network: an architecture's name.
        pad: pixels of zero padding on each side before a random crop of the image's own size.
        flip: mirror every second image, on average.
        precision: of the network's arithmetic; the weights themselves are always float32.
        images: use only so many training images, the first ones; None for all.
    """

    name: str
    preset: str
    epochs: int
    batch: int
    schedule: Steps | WarmupLinear
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    network: str = "preact-resnet20"
    pad: int = 4
    flip: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    images: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"`batch` must be >= 1, got {self.batch}")
        least = int(self.schedule.warmup) + 1 if isinstance(self.schedule, WarmupLinear) else 1
        if self.epochs < least:
            raise ValueError(f"`epochs` must be >= {least} for this learning rate, got {self.epochs}")


_PAPER = Recipe("dense", "paper", epochs=150, batch=512, schedule=Steps(((0.5, 100), (0.05, 30), (0.005, 20))))
_SMALL = Recipe(
    "dense",
    "small",
    epochs=45,
    batch=256,
    schedule=WarmupLinear(peak=0.2, warmup=5),
    nesterov=True,
    weight_decay=5e-4,
    precision="bfloat16",
)
_SMOKE = replace(_SMALL, preset="smoke", epochs=2, batch=64, schedule=WarmupLinear(peak=0.05, warmup=1), images=512)

RECIPES = {(recipe.name, recipe.preset): recipe for recipe in (_PAPER, _SMALL, _SMOKE)}


def find_recipe(name: str, preset: str) -> Recipe:
    """Give the recipe of that name and preset.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if (name, preset) in RECIPES:
        return RECIPES[name, preset]
    names = sorted({known for known, _ in RECIPES})
    if name not in names:
        raise ValueError(f"`recipe` must be one of {', '.join(names)}, got {name!r}")
    presets = sorted(known for other, known in RECIPES if other == name)
    raise ValueError(f"`preset` must be one of {', '.join(presets)} for recipe {name!r}, got {preset!r}")

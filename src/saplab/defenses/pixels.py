"""Input defences that change each pixel by itself: Gaussian noise, fewer bits, random rounding."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saplab.defenses.base import POSITIVE, Defense, Draw
from saplab.system.registry import register


@register("gaussian-noise")
@dataclass(frozen=True)
class GaussianNoise(Defense):
    """Gaussian noise on the image, x + η, η ~ N(0, std²) for every value of it, which is not clipped.

    One law under several names: randomised smoothing (Cohen, Rosenfeld & Kolter 2019; std 0.12, 0.25, 0.5 and 1 for
    CIFAR-10, on networks trained with it), random noise defence (RND: Qin et al. 2021; 0.02 in others' code) and small
    noise defence (SND: Byun, Go & Kim 2022; 0.01 in others' code), some of whose implementations clip to [0, 1].

    Attributes:
        std: in the unit of the image, > 0.
    """

    bends = False
    title = "Gaussian noise"
    std: float = 0.02

    def __post_init__(self) -> None:
        if not POSITIVE.test(self.std):
            raise ValueError(f"`std` must be {POSITIVE.words}, got {self.std}")

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        """Add noise to the images `x` (N, ...)."""
        return x + self.std * draw.normal(x.shape)


class _Rounding(Defense):
    """To multiples of a step, whose gradient is zero: straight through on the way back, by every rule."""

    bends = False

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        """Return the images themselves (BPDA)."""
        return x


@register("bit-depth")
@dataclass(frozen=True)
class BitDepth(_Rounding):
    """Fewer bits a value, without randomness: round(x · (2^bits - 1)) / (2^bits - 1) (Xu, Evans & Qi 2018).

    Guo et al. (2018) take 3 bits; Athalye et al. (2018), who break it by BPDA, cut bits off instead of rounding.

    Attributes:
        bits: 1 to 16.
    """

    random = False
    title = "bit depth"
    bits: int = 3

    def __post_init__(self) -> None:
        _check_whole("bits", self.bits, 1, 16)

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        """Round the images `x` (N, ...), in [0, 1]."""
        steps = (1 << self.bits) - 1
        return (x * steps).round() / steps


@register("stochastic-rounding")
@dataclass(frozen=True)
class StochasticRounding(_Rounding):
    """Rounding at random to one of the two nearest of `levels` values from 0 to 1, so that the mean is x.

    The upper one has the probability of the distance from the lower one, in steps, to within 2^-24. Yoon, Park & Kim
    (2018) round activations at random; here it is the image, at as many levels as `BitDepth` has by default.

    Attributes:
        levels: 2 to 65,536.
    """

    title = "stochastic rounding"
    levels: int = 8

    def __post_init__(self) -> None:
        _check_whole("levels", self.levels, 2, 1 << 16)

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        """Round the images `x` (N, ...), in [0, 1]."""
        scaled = x * (self.levels - 1)
        below = scaled.floor()
        rounded: Tensor = below + (draw.uniform(x.shape) < scaled - below)
        return rounded / (self.levels - 1)


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"`{name}` must be a whole number within [{low}, {high}], got {value!r}")

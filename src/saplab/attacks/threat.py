"""What an attacker may change: the ball around an example, in a norm, and the range of valid values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from saplab.attacks.norms import NORMS, Bounds, Norm, NormName
from saplab.system.words import did_you_mean

STEPS: Final = 255.0  # pixel steps between black and white
ROUNDING: Final = 1e-6  # of a radius that went through float32
_UNBOUNDED: Final = 0.5  # of the width of the bounds: every image can be made the same grey, so that chance is left


def eps_of(lam: float) -> float:
    """Convert a strength λ in pixel steps of 0..255 into the unit of [0, 1] images: the one place that does."""
    if not 0 <= lam <= STEPS:
        raise ValueError(f"λ must be within [0, 255] pixel steps, got {lam:g}")
    return lam / STEPS


def strength_of(eps: float) -> float:
    """Convert a radius in the unit of [0, 1] images into λ, to a millionth of a pixel step."""
    return round(eps * STEPS, 6)


@dataclass(frozen=True)
class ThreatModel:
    """The attacker's room.

    Attributes:
        norm: in which a perturbation is measured: ``linf``, the largest change of a value, or ``l2``.
        bounds: lowest and highest valid value; None where every number is valid.
    """

    norm: NormName = "linf"
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(
                f"`norm` must be one of {', '.join(NORMS)}, got {self.norm!r}{did_you_mean(str(self.norm), NORMS)}"
            )
        if self.bounds is not None:
            low, high = map(float, self.bounds)
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"`bounds` must ascend, got {self.bounds}")
            object.__setattr__(self, "bounds", (low, high))

    @property
    def geometry(self) -> Norm:
        """Return the norm as attacks use it."""
        return NORMS[self.norm]

    @property
    def width(self) -> float:
        """Return the length of the range of valid values; infinite without bounds."""
        return math.inf if self.bounds is None else self.bounds[1] - self.bounds[0]

    def project(self, points: Tensor, centre: Tensor, eps: float) -> Tensor:
        """Return the nearest valid points within `eps` of `centre`, which is valid."""
        return self.geometry.project(points, centre, eps, self.bounds)

    def farthest(self, gradient: Tensor, centre: Tensor, eps: float) -> Tensor:
        """Return the valid points within `eps` of `centre` where functions with these gradients would be largest."""
        return self.geometry.farthest(gradient, centre, eps, self.bounds)

    def holds(self, points: Tensor, images: Tensor, eps: float) -> bool:
        """Return whether points are valid and within `eps` of `images`, up to rounding."""
        scale = max(1.0, float(images.abs().max())) if self.bounds is None else self.width
        low, high = (-math.inf, math.inf) if self.bounds is None else self.bounds
        slack = 1e-5 * scale
        inside = low - slack <= points.min() and points.max() <= high + slack
        most = eps + self.geometry.slack(eps, scale, images[0].numel())
        return bool(inside and self.geometry.size(points - images).max() <= most)

    def check(self, images: Tensor, labels: Tensor, eps: Sequence[float]) -> None:
        """Refuse what no attack can work on."""
        if len(images) == 0:
            raise ValueError("`images` must hold at least one image, got none")
        least, most = float(images.min()), float(images.max())
        if self.bounds is None:
            if not (math.isfinite(least) and math.isfinite(most)):
                raise ValueError(f"`images` must be finite, got values from {least:g} to {most:g}")
        elif not (least >= self.bounds[0] and most <= self.bounds[1]):
            low, high = self.bounds
            wanted = f"`images` must lie in [{low:g}, {high:g}], got values from {least:g} to {most:g}"
            raise ValueError(wanted + _instead_of_range(least, most, self.bounds))
        if labels.shape != (len(images),) or labels.dtype.is_floating_point:
            raise ValueError(
                f"`labels` must be {len(images)} integers, got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        self.check_radii(eps, images[0].numel())

    def check_radii(self, eps: Sequence[float], values: int) -> None:
        """Refuse radii that are not within the bounds of examples of so many values; 0 where that is not known."""
        largest = self.geometry.holding_cube(self.width, values) if values or self.norm == "linf" else math.inf
        for value in eps:
            if not (0.0 <= value <= largest and math.isfinite(value)):
                steps = self.in_steps and 1 < value <= STEPS
                more = f"; for {value:g} pixel steps write {value:g} / 255" if steps else ""
                raise ValueError(f"`eps` must be within [0, {largest:g}], got {value}{more}")

    @property
    def in_steps(self) -> bool:
        """Return whether radii are read in pixel steps λ: the largest change of [0, 1] images."""
        return self == LINF

    @property
    def symbol(self) -> str:
        """Return what tables and charts call a radius: λ, or ε in the norm's own unit."""
        return "λ" if self.in_steps else "ε"

    def shown(self, eps: float) -> float:
        """Return the number that people read for a radius: λ in pixel steps, or ε as it is."""
        return strength_of(eps) if self.in_steps else float(eps)

    def text(self, eps: float) -> str:
        """Return a radius in words: ``λ = 8``, ``ε = 0.5``."""
        return f"{self.symbol} = {self.shown(eps):g}"

    @property
    def setting(self) -> str:
        """Return in which norm and bounds a radius that is no λ is measured: `` in L2``; "" for λ."""
        if self.in_steps:
            return ""
        if self.bounds is None:
            return f" in {self.geometry.label} (no bounds)"
        low, high = self.bounds
        return f" in {self.geometry.label}" + ("" if (low, high) == (0.0, 1.0) else f" (values in [{low:g}, {high:g}])")

    @property
    def usual(self) -> float:
        """Return the radius that a sentence speaks of where it was run; infinite without bounds."""
        return self.geometry.usual * self.width

    def up_to_usual(self, eps: float) -> bool:
        """Return whether a radius is at most the usual one, up to the rounding of a float32."""
        return eps <= self.usual * (1 + ROUNDING)

    def usual_radii(self) -> tuple[float, ...]:
        """Return the radii to attack at where none are given: the usual one, and a quarter of it.

        Raises:
            ValueError: without bounds nothing is usual.
        """
        if self.bounds is None:
            raise ValueError("`eps` must be given where `bounds` is None: no radius is usual there")
        return (self.usual / 4, self.usual)

    def unbounded(self, count: int) -> float:
        """Return the radius from which an attack on `count` values should reach chance; infinite without bounds.

        In the maximum norm it is half the range of valid values, in others the radius of the ball that holds this cube:
        within it all images meet in the middle of the range.
        """
        return self.geometry.holding_cube(_UNBOUNDED * self.width, count)


LINF: Final = ThreatModel()


def _instead_of_range(least: float, most: float, bounds: tuple[float, float]) -> str:
    """Return what to do with values outside the bounds, where it is clear what they are."""
    if bounds != (0.0, 1.0):
        return ""
    if least >= 0 and 1 < most <= STEPS:
        return "; write images / 255 for pixels of 0..255"
    return "; put the normalisation into the network, or give `bounds`" if least < 0 and -16 < least < most < 16 else ""


def check_labels(labels: Tensor, classes: int, name: str = "labels") -> None:
    """Refuse labels that the network has no class for."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"`{name}` must lie in 0..{classes - 1} for this network, got {low}..{high}")

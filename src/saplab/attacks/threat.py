"""What an attacker may change: the ball around an image, in a norm, and the range of valid values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf"]

STEPS: Final = 255.0  # pixel steps between black and white


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
        norm: in which a perturbation is measured: ``linf``, the largest change of a value.
        bounds: lowest and highest valid value.
    """

    norm: Norm = "linf"
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ValueError(f"`norm` must be one of {', '.join(get_args(Norm))}, got {self.norm!r}")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"`bounds` must ascend, got {self.bounds}")

    def project(self, adversarial: Tensor, images: Tensor, eps: float) -> Tensor:
        """Project on to the ball of radius `eps` around `images`, and on to valid values: clip_{x,λ} of section 4.5."""
        return torch.minimum(torch.maximum(adversarial, images - eps), images + eps).clamp(*self.bounds)

    def holds(self, points: Tensor, images: Tensor, eps: float) -> bool:
        """Return whether points are valid and within `eps` of `images`, up to rounding."""
        low, high = self.bounds
        slack = 1e-5 * (high - low)
        inside = low - slack <= points.min() and points.max() <= high + slack
        return bool(inside and (points - images).abs().max() <= eps + slack)

    def check(self, images: Tensor, labels: Tensor, eps: Sequence[float]) -> None:
        """Refuse what no attack can work on."""
        if len(images) == 0:
            raise ValueError("`images` must hold at least one image, got none")
        low, high = self.bounds
        least, most = float(images.min()), float(images.max())
        if not (least >= low and most <= high):
            raise ValueError(f"`images` must lie in [{low:g}, {high:g}], got values from {least:g} to {most:g}")
        if labels.shape != (len(images),) or labels.dtype.is_floating_point:
            raise ValueError(
                f"`labels` must be {len(images)} integers, got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        for value in eps:
            if not 0.0 <= value <= high - low:
                raise ValueError(f"`eps` must be within [0, {high - low:g}], got {value}")


LINF: Final = ThreatModel()


def check_labels(labels: Tensor, classes: int, name: str = "labels") -> None:
    """Refuse labels that the network has no class for."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"`{name}` must lie in 0..{classes - 1} for this network, got {low}..{high}")

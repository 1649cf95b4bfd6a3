"""The adversary's room: the λ-ball in the maximum norm around an image, and the cube of valid pixels [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor

STEPS: float = 255.0  # pixel steps between black and white


def eps_of(lam: float) -> float:
    """Convert a strength λ in pixel steps of 0..255 into the unit of [0, 1] images: the one place that does.

    Raises:
        ValueError: `lam` is not within [0, 255].
    """
    if not 0 <= lam <= STEPS:
        raise ValueError(f"λ must be within [0, 255] pixel steps, got {lam:g}")
    return lam / STEPS


def project(adversarial: Tensor, images: Tensor, eps: float) -> Tensor:
    """Project on to the ball of radius `eps` around `images`, and on to the cube: clip_{x,λ} of section 4.5."""
    return torch.minimum(torch.maximum(adversarial, images - eps), images + eps).clamp(0.0, 1.0)


def check_request(images: Tensor, labels: Tensor, eps: Sequence[float]) -> None:
    """Refuse what no attack can work on.

    Raises:
        ValueError: no images; values outside [0, 1] or NaN; labels of another shape or kind; `eps` outside [0, 1].
    """
    if len(images) == 0:
        raise ValueError("`images` must hold at least one image, got none")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"`images` must lie in [0, 1], got values from {low:g} to {high:g}")
    if labels.shape != (len(images),) or labels.dtype.is_floating_point:
        raise ValueError(f"`labels` must be {len(images)} integers, got {labels.dtype} of shape {tuple(labels.shape)}")
    for value in eps:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"`eps` must be within [0, 1], got {value}")


def check_labels(labels: Tensor, classes: int, name: str = "labels") -> None:
    """Refuse labels that the network has no class for.

    Raises:
        ValueError: a label is outside 0..classes-1.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"`{name}` must lie in 0..{classes - 1} for this network, got {low}..{high}")

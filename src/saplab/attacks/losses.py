"""What an adversary drives up: per-example losses of logits (N, C), labels (N,) and, for the targeted ones, targets."""

from collections.abc import Callable
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["cross-entropy", "margin", "dlr"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(z)_y, (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return max_{i≠y} z_i - z_y, (N,): positive exactly where the example is lost (Carlini & Wagner 2017)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
    return others.amax(1) - own


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the difference of logits ratio (Croce & Hein 2020, eq. 6), (N,), for three classes or more."""
    if logits.shape[1] < 3:
        raise ValueError(f"the DLR loss needs at least 3 classes, got {logits.shape[1]}")
    top = logits.topk(3, 1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return log softmax(z)_t, (N,): minus the cross-entropy of the target (Kurakin et al. 2017)."""
    return -cross_entropy(logits, targets)


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return z_t - z_y, (N,): lost where positive (Gowal et al. 2019, the MultiTargeted attack)."""
    own, wanted = (logits.gather(1, classes[:, None])[:, 0] for classes in (labels, targets))
    return wanted - own


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the targeted difference of logits ratio (Croce & Hein 2020, eq. 8), (N,), for four classes or more."""
    if logits.shape[1] < 4:
        raise ValueError(f"the targeted DLR loss needs at least 4 classes, got {logits.shape[1]}")
    top = logits.topk(4, 1).values
    return targeted_margin(logits, labels, targets) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


LOSSES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cross-entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
TARGETED: Final[dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "cross-entropy": targeted_cross_entropy,
    "margin": targeted_margin,
    "dlr": targeted_dlr,
}

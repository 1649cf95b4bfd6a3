"""What an adversary drives up: per-example losses of logits (N, C), labels (N,) and, for the targeted ones, targets."""

from collections.abc import Callable
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from saplab.system.registry import import_object

LossName = Literal["cross-entropy", "exact-cross-entropy", "margin", "dlr"]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, C), labels (N,) -> (N,)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(z)_y, (N,), whose slope is what PyTorch and other frameworks make of softmax(z)_y - 1."""
    return F.cross_entropy(logits, labels, reduction="none")


def exact_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(z)_y, (N,), with all digits of its slope where a network is sure of a class.

    There 1 - p is the slope by that class's logit. Subtracted from 1 in float32 it loses its digits, all of them where
    that logit leads by 17, and with them half of the gradient. Where 1 - p is below 1e-31, a gradient counts as flat,
    and the slope is what relaxed backward takes for it.
    """
    logs = F.log_softmax(logits, 1)
    left = _others(logs.detach().exp(), logs.detach().argmax(1, keepdim=True))
    sure = (left < 1e-3) & (left > 1e-31)
    logs = torch.where(sure, _Exact.apply(logits), logs)  # type: ignore[no-untyped-call]
    return F.nll_loss(logs, labels, reduction="none")


class _Exact(torch.autograd.Function):
    """The logarithm of a softmax whose gradient g_i - p_i Σ g subtracts no two numbers that are nearly the same."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        logs = F.log_softmax(z, 1)
        ctx.save_for_backward(logs)
        return logs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        logs: Tensor = ctx.saved_tensors[0]
        p, top = logs.exp(), logs.argmax(1, keepdim=True)
        rest, own = _others(g, top), g.gather(1, top)
        of_top = own * _others(p, top) - p.gather(1, top) * rest  # (1 - p) g - p Σ of the others' g
        slopes: Tensor = g - p * (rest + own)
        return slopes.scatter(1, top, of_top)


def _others(values: Tensor, top: Tensor) -> Tensor:
    """Return the sum over all classes but `top`, (N, 1)."""
    return values.scatter(1, top, 0.0).sum(1, keepdim=True)


def log_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log(-log softmax(z)_y), (N,): the order of cross-entropies, also of those that round to 0.

    With the log-odds l = log Σ_{i≠y} exp(z_i - z_y) against the label, -log softmax(z)_y = log(1 + exp(l)).
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
    odds = others.logsumexp(1) - own
    return torch.where(odds < -30, odds, F.softplus(odds.clamp(min=-30)).log())


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


def targeted_exact_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return log softmax(z)_t, (N,), with all digits of its slope."""
    return -exact_cross_entropy(logits, targets)


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
    "exact-cross-entropy": exact_cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
TARGETED: Final[dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "cross-entropy": targeted_cross_entropy,
    "exact-cross-entropy": targeted_exact_cross_entropy,
    "margin": targeted_margin,
    "dlr": targeted_dlr,
}

RANKS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {  # by which points are ordered where a loss rounds to 0
    "cross-entropy": log_cross_entropy,
    "exact-cross-entropy": log_cross_entropy,
}


def read_loss(loss: Any) -> Any:
    """Return a loss's name, or the function that ``package.module:function`` stands for, or a function as it is.

    Raises:
        ValueError: an unknown name, or a path where there is no function.
    """
    found = import_object(loss) if isinstance(loss, str) and ":" in loss else loss
    if not (found in LOSSES if isinstance(found, str) else callable(found)):
        raise ValueError(f"`loss` must be one of {', '.join(LOSSES)}, or a function, got {loss!r}")
    return found


def loss_of(loss: LossName | Loss, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Return the loss (N,) that an attack drives up: away from the labels or, where there are any, towards targets.

    Of a user's function, which knows labels alone, the latter is minus the loss of the target, as of cross-entropy.

    Raises:
        ValueError: a user's function that returns anything but one number for each example.
    """
    if isinstance(loss, str):
        return LOSSES[loss](logits, labels) if targets is None else TARGETED[loss](logits, labels, targets)
    found = loss(logits, labels) if targets is None else -loss(logits, targets)
    if not isinstance(found, Tensor) or found.shape != labels.shape:
        got = f"the shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"`loss` must return one number for each of {len(labels)} examples, got {got}")
    return found

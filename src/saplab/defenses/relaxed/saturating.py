"""Functions that saturate: where more than half of an example lies beyond their slope, another one stands in for it.

The stand-in is the same function of x / s, with s the mean distance from its middle, so that a typical entry lies where
it bends. Everywhere else PyTorch's own gradient is taken. Nothing here depends on the other examples of a batch.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from saplab.defenses.relaxed.marks import Bent, marked
from saplab.defenses.relaxed.rows import brink, depth, per_example, rarely, sloped, typical

SPREAD: Final = 2.0  # distance of the two largest logits of a typical row of the softmax that stands in

Call = Callable[[], Tensor]


def _bent(x: Tensor, call: Call, alive: Tensor, exact: Callable[[], Tensor], soft: Callable[[], Tensor]) -> Tensor:
    """Return what `call` does, with the slope `soft` for examples that are rarely `alive`, and `exact` for others."""
    saturated = rarely(alive)
    if not bool(saturated.any()):
        return call()
    with torch.no_grad():
        slope = torch.where(saturated, soft(), exact())
        value = call()
    return marked(sloped(x, value, slope.to(value.dtype)), Bent(x.detach(), saturated))


def _hill(x: Tensor, middle: float | Tensor = 0.0, half: float | Tensor = 1.0) -> Tensor:
    """Return the slope of tanh, `half` wide and 1 steep in its middle, stretched to the reach of each example."""
    u = (x.detach() - middle) / half
    s = typical(u.abs()).clamp(min=1.0)
    return (1 - torch.tanh(u / s).square()) / s


def sigmoid(x: Tensor, call: Call) -> Tensor:
    """Return sigmoid(x), which is saturated where 1 - y rounds to 0."""
    y = x.detach()
    alive = y.abs() < depth(x.dtype)
    return _bent(x, call, alive, lambda: y.sigmoid() * (1 - y.sigmoid()), lambda: _hill(y, half=2.0) / 4)


def tanh(x: Tensor, call: Call) -> Tensor:
    """Return tanh(x)."""
    y = x.detach()
    return _bent(x, call, y.abs() < depth(x.dtype) / 2, lambda: 1 - y.tanh().square(), lambda: _hill(y))


def erf(x: Tensor, call: Call) -> Tensor:
    """Return erf(x)."""
    y, top = x.detach(), 2 / torch.pi**0.5
    alive = y.square() < depth(x.dtype)
    return _bent(x, call, alive, lambda: top * torch.exp(-y.square()), lambda: top * _hill(y))


def clamp(x: Tensor, call: Call, low: Any, high: Any) -> Tensor:
    """Return x within [low, high]; a clamp of one side alone is a rectifier, and never saturated."""
    if low is None or high is None:
        return call()
    y = x.detach()
    inside = (y >= low) & (y <= high)
    middle, half = (low + high) / 2, (high - low) / 2
    if inside.shape != y.shape or not _positive(half):
        return call()
    return _bent(x, call, inside, lambda: inside.to(y.dtype), lambda: _hill(y, middle, half))


def _positive(half: Any) -> bool:
    return bool((half > 0).all()) if isinstance(half, Tensor) else half > 0


def hardsigmoid(x: Tensor, call: Call) -> Tensor:
    """Return hardsigmoid(x): x / 6 + 1 / 2 within [-3, 3]."""
    y = x.detach()
    alive = y.abs() < 3
    return _bent(x, call, alive, lambda: alive.to(y.dtype) / 6, lambda: _hill(y, half=3.0) / 6)


def relu6(x: Tensor, call: Call) -> Tensor:
    """Return relu6(x); of what a ReLU lets through, more than half must lie beyond 6."""
    y = x.detach()
    on = y > 0
    passing = per_example((on & (y < 6)).float()) * 2 >= per_example(on.float())
    soft = lambda: on * _hill(y.clamp(min=0.0), half=6.0)  # noqa: E731
    return _bent(x, call, passing.expand_as(y), lambda: (on & (y < 6)).to(y.dtype), soft)


def hardswish(x: Tensor, call: Call) -> Tensor:
    """Return hardswish(x), which is 0 below -3; a swish stands in for it."""
    y = x.detach()

    def soft() -> Tensor:
        u = y / typical(y.abs())
        return u.sigmoid() * (1 + u * (1 - u.sigmoid()))

    def exact() -> Tensor:
        return torch.where(y < 3, torch.where(y > -3, y / 3 + 0.5, 0.0), 1.0)

    return _bent(x, call, y > -3, exact, soft)


def softmax(z: Tensor, dim: int, call: Call) -> Tensor:
    """Return softmax(z); its rows are saturated where the largest logit leads so far that 1 - p rounds to 0."""
    scale = _softening(z, dim, depth(z.dtype))
    if scale is None:
        return call()
    p: Tensor = _Softmax.apply(z, call(), scale, dim)  # type: ignore[no-untyped-call]
    top = z.detach().topk(2, dim).values
    first, second = top.narrow(dim, 0, 1), top.narrow(dim, 1, 1)
    ahead = z.detach() - torch.where(z.detach() == first, second, first)
    return marked(p, Bent(ahead, scale != 1))


def log_softmax(z: Tensor, dim: int, call: Call) -> Tensor:
    """Return log softmax(z); s · log softmax(z / s) stands in for it where the gradient vanishes.

    PyTorch's own is good for far longer than softmax's: a gradient of 1e-25 has a direction like any other.
    """
    scale = _softening(z, dim, brink(z.dtype))
    if scale is None:
        return call()
    return _LogSoftmax.apply(z, call(), scale, dim)  # type: ignore[no-any-return, no-untyped-call]


def cross_entropy(z: Tensor, labels: Tensor, ignore: int, reduction: str) -> Tensor:
    """Return the cross-entropy of the classes `labels`, by the relaxed log softmax."""
    dim = 1 if z.dim() > 1 else 0
    logs = log_softmax(z, dim, lambda: F.log_softmax(z, dim))
    return F.nll_loss(logs, labels, ignore_index=ignore, reduction=reduction)


@torch.no_grad()
def _softening(z: Tensor, dim: int, limit: float) -> Tensor | None:
    """Return by what to divide each row's logits, 1 where its example is not saturated; None where none is."""
    if z.shape[dim] < 2:
        return None
    top = z.detach().topk(2, dim).values
    gap = top.select(dim, 0) - top.select(dim, 1)
    gap = gap.nan_to_num(0.0, 0.0, 0.0)
    saturated = rarely(gap < limit)
    if not bool(saturated.any()):
        return None
    s = torch.where(saturated, typical(gap) / SPREAD, 1.0)
    return s.expand_as(gap).unsqueeze(dim)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, p: Tensor, scale: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(scale, torch.softmax(z / scale, dim))
        return p.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale, q = ctx.saved_tensors
        return q * (grad - (grad * q).sum(ctx.dim, keepdim=True)) / scale, None, None, None


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, logs: Tensor, scale: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(logs, torch.softmax(z / scale, dim))
        return logs.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logs, q = ctx.saved_tensors
        total = grad.sum(ctx.dim, keepdim=True)
        exact = grad - logs.exp() * total
        most, size = (t.abs().amax(ctx.dim, keepdim=True) for t in (exact, grad))
        flat = most <= 2 * torch.finfo(grad.dtype).eps * size
        return torch.where(flat, grad - q * total, exact), None, None, None

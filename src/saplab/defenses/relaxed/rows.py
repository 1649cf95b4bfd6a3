"""What the stand-ins have in common: numbers of each example of a map, and gradients of their own."""

import math
from typing import Any

import torch
from torch import Tensor


def per_example(values: Tensor) -> Tensor:
    """Return the mean over each example of maps (N, ...), in a shape that goes with them."""
    return values.mean(tuple(range(1, values.dim())), keepdim=True) if values.dim() > 1 else values


def rarely(alive: Tensor) -> Tensor:
    """Return for which examples fewer than half of the entries are `alive`."""
    return per_example(alive.float()) < 0.5


def typical(sizes: Tensor) -> Tensor:
    """Return the mean of the sizes of each example, above 0 also where all are 0."""
    return per_example(sizes).clamp(min=torch.finfo(sizes.dtype).tiny)


def brink(dtype: torch.dtype) -> float:
    """Return how far logits must lie apart for p to come near the type's smallest number: 1e-25 in float32."""
    return -math.log(torch.finfo(dtype).tiny) * 2 / 3


def depth(dtype: torch.dtype) -> float:
    """Return -ln of the type's rounding: by so much must logits lie apart for 1 - p to round to 0."""
    return -math.log(torch.finfo(dtype).eps)


class Straight(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        """Return the value."""
        ctx.dtype = soft.dtype
        return hard.detach().to(soft.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        """Pass the gradient on."""
        return None, grad


def straight(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the value of `hard`, in the type of `soft`, with the gradient of `soft`."""
    return Straight.apply(hard.detach(), soft)  # type: ignore[no-any-return, no-untyped-call]


class Sloped(torch.autograd.Function):
    """A value with a slope by `x` that is given for each entry."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        """Return the value."""
        ctx.save_for_backward(slope)
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return grad * slope."""
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


def sloped(x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """Return `value` with the gradient `slope` by `x`, all of one shape."""
    return Sloped.apply(x, value, slope)  # type: ignore[no-any-return, no-untyped-call]

"""The gradients of pruning: the mask's, as the torch operator `saplab::mask_gradient`, and the probabilities'."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from saplab.pruning.gradient import scale_gradient
from saplab.pruning.layouts import as_array, dense_format
from saplab.rng.gpu import gpu_kernels
from saplab.rng.operators import operator
from saplab.rng.threads import over_rows

_DTYPES: Final = (torch.float32, torch.bfloat16)  # for which there is a kernel


def _mask_gradient(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """Return grad * m, with m = out / h where an activation was kept and 0 elsewhere."""
    return _masked(grad, h, out, _scale if h.dtype in _DTYPES else None)


def _mask_gradient_on_gpu(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    return _masked(grad, h, out, gpu_kernels("saplab.pruning.gpu").scale_gradients)


def _unwritten(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    return torch.empty_like(grad)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return mask_gradient(grad, *ctx.saved_tensors), None, None


mask_gradient: Final = operator("mask_gradient", _mask_gradient, _mask_gradient_on_gpu, _unwritten, _backward, _setup)


def _masked(grad: Tensor, h: Tensor, out: Tensor, scale: Callable[..., Tensor] | None) -> Tensor:
    """Return grad * m by a kernel for tensors of one dtype and dense memory format, where there is one."""
    if scale is None or grad.dtype != h.dtype or h.numel() == 0:
        m = torch.where(out != 0, out.to(_at_least_float32(h)) / h, 0.0)
        return torch.empty_like(grad).copy_(grad * m)
    scaled = scale(*(t.detach().contiguous(memory_format=dense_format(h)) for t in (grad, h, out)))
    result = torch.empty_like(grad)
    return scaled if scaled.stride() == result.stride() else result.copy_(scaled)


def _scale(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    result = torch.empty_like(grad)
    size = h.numel() // len(h)
    arrays = [as_array(t.as_strided((t.numel(),), (1,))) for t in (grad, h, out, result)]
    over_rows(lambda start, stop: scale_gradient(*(t[start * size : stop * size] for t in arrays)), len(h), size)
    return result


def probability_gradient(grad: Tensor, h: Tensor, out: Tensor, draws: int) -> Tensor:
    """Differentiate through p as well: dM_j/dh_i = m_j [i = j] - h_j m_j^2 r (1-p_j)^(r-1) dp_j/dh_i."""
    if h.numel() == 0:
        return torch.zeros_like(h)
    x, y, g = (t.reshape(len(h), -1).to(_at_least_float32(h)) for t in (h, out, grad))
    p = shares(x)
    kept = y != 0
    m = torch.where(kept, 1.0 / inclusion(p, draws), 0.0)
    slope = draws * torch.exp((draws - 1) * torch.log1p(-p)) if draws > 1 else torch.ones_like(p)
    c = torch.where(kept, -g * x * m.square() * slope, 0.0)
    through_p = torch.sign(x) * (c - (c * p).sum(1, keepdim=True)) / _mass(x)
    return (g * m + through_p).view(h.shape).to(h.dtype)


def shares(x: Tensor) -> Tensor:
    """Return p (N, a) of rows (N, a); zeros for a row of zeros."""
    return x.abs() / _mass(x)


def inclusion(p: Tensor, draws: int) -> Tensor:
    """Return 1 - (1 - p)^r without cancellation."""
    return -torch.expm1(draws * torch.log1p(-p))


def _mass(x: Tensor) -> Tensor:
    mass = x.abs().sum(1, keepdim=True)
    return torch.where(mass > 0, mass, 1.0)


def _at_least_float32(h: Tensor) -> torch.dtype:
    return torch.promote_types(h.dtype, torch.float32)

"""Algorithm 1 as one torch operator, `torch.ops.saplab.prune`, with the three ways to take its gradient.

The kernel is chosen by the device of the input. Backward rules, for M(h) = h * m, m = [kept] / (1 - (1 - p)^r):

- ``mask``: m is a constant, so the gradient is grad * m (the paper's adversary).
- ``probability``: p, and so the scale in m, depends on h; only the draw itself is constant.
- ``identity``: the gradient passes unchanged (BPDA, Athalye et al. 2018).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from saplab.pruning.cpu import prune_rows
from saplab.pruning.finite import not_finite, note
from saplab.pruning.gradient import scale_bfloat16_gradient, scale_gradient
from saplab.pruning.layouts import prune_bfloat16_channels_last, prune_bfloat16_rows, prune_channels_last
from saplab.rng.gpu import gpu_kernels
from saplab.rng.threads import over_rows

BackwardRule = Literal["mask", "probability", "identity"]
RULES: Final = get_args(BackwardRule)
_KERNELS = {torch.float32: prune_rows, torch.bfloat16: prune_bfloat16_rows}
_ONE_THREADS = 1 << 18  # activations that one thread copies while others would wake up
_CHANNELS_LAST_KERNELS = {torch.float32: prune_channels_last, torch.bfloat16: prune_bfloat16_channels_last}


def prune(
    h: Tensor, streams: Tensor, draws: int, site: int = 0, rule: BackwardRule = "mask", name: str = "activations",
    rectify: bool = False,
) -> Tensor:  # fmt: skip
    """Apply Stochastic Activation Pruning to each row of `h`.

    Args:
        h: activations (N, ...), any floating dtype and memory format; each example is one map of a = C·H·W.
        streams: (N, 3) int64, see `saplab.rng.streams.pass_streams`; on the CPU, or on the device of `h`.
        draws: r, categorical draws with replacement per example.
        site: number of the site within the pass, part of the noise's coordinates.
        rule: how the gradient is taken.
        name: what to call these activations in an error.
        rectify: prune relu(h) instead, in the same pass over memory; the gradient is that of both.

    Returns:
        Tensor like `h`: 0, or h / (1 - (1 - p)^r). Draws and scale are computed in float32 or better.

    Raises:
        NotFiniteError: `h` holds NaN or infinity. On a GPU such a map becomes NaN, and `check_finite` tells.
        ValueError: `draws` < 1, an unknown `rule`, `streams` of another length than `h`, or a call inside a transform
            of `torch.func`.
    """
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise ValueError(f"{name}: torch.func cannot transform pruning; take gradients with torch.autograd")
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join(RULES)}, got {rule!r}")
    if draws < 1:
        raise ValueError(f"`draws` must be >= 1, got {draws}")
    if streams.shape != (h.shape[0], 3):
        raise ValueError(f"`streams` must have shape ({len(h)}, 3), got {tuple(streams.shape)}")
    return torch.ops.saplab.prune(h, streams, draws, site, rule, name, rectify)  # type: ignore[no-any-return]


@torch.library.custom_op("saplab::prune", mutates_args=(), device_types="cpu")
def _prune(h: Tensor, streams: Tensor, draws: int, site: int, rule: str, name: str, rectify: bool = False) -> Tensor:
    keys = streams.contiguous()

    def prune_maps(maps: Tensor, kernels: Mapping[torch.dtype, Any] = _KERNELS, *more: np.float32) -> Tensor:
        return _prune_maps(maps, keys, draws, site, name, kernels[maps.dtype], *more)

    if h.numel() and h.dtype in _CHANNELS_LAST_KERNELS and _dense_format(h) == torch.channels_last:
        maps, floor = h.detach().permute(0, 2, 3, 1).flatten(1, 2), np.float32(0.0 if rectify else -np.inf)
        kept = prune_maps(maps, _CHANNELS_LAST_KERNELS, floor)
        return kept.view(len(h), *h.shape[2:], h.shape[1]).permute(0, 3, 1, 2)
    return _pruned(h.detach().relu() if rectify else h, draws, (torch.bfloat16,), prune_maps)


@_prune.register_kernel("cuda")
def _prune_on_gpu(
    h: Tensor, streams: Tensor, draws: int, site: int, rule: str, name: str, rectify: bool = False
) -> Tensor:
    kernels = gpu_kernels("saplab.pruning.gpu")
    keys = streams.to(h.device, non_blocking=True).contiguous()

    def prune_rows(rows: Tensor) -> Tensor:
        return kernels.prune_rows(rows, keys, draws, site, note(keys, name))  # type: ignore[no-any-return]

    return _pruned(h.detach().relu() if rectify else h, draws, (torch.bfloat16, torch.float16), prune_rows)


def _pruned(h: Tensor, draws: int, halves: tuple[torch.dtype, ...], prune_rows: Callable[[Tensor], Tensor]) -> Tensor:
    """Prune by a kernel for contiguous rows (N, a) of float32 and of the types `halves`."""
    if h.numel() == 0:
        return torch.empty_like(h)
    x = _contiguous(h.detach()).view(len(h), -1)
    kept = prune_rows(_as_kernels_take_it(x, halves))
    if h.dtype == torch.float64:
        kept = _rescale(x, kept != 0, draws)
    out = kept.view(h.shape)
    return out if out.dtype == h.dtype and out.stride() == h.stride() else _copied(out, torch.empty_like(h))


def _contiguous(x: Tensor) -> Tensor:
    return x if x.is_contiguous() else _copied(x, torch.empty(x.shape, dtype=x.dtype, device=x.device))


def _copied(source: Tensor, to: Tensor) -> Tensor:
    """Copy to a tensor that may lie otherwise in memory; what is small, in the calling thread: others wake too late."""
    if source.is_cpu and source.numel() <= _ONE_THREADS and source.dtype == to.dtype == torch.float32:
        np.copyto(to.numpy(), source.numpy())
        return to
    return to.copy_(source)


def _as_kernels_take_it(x: Tensor, halves: tuple[torch.dtype, ...]) -> Tensor:
    """Give the rows contiguous, in `halves` or float32; of float64 only the relative sizes, which decide the draws."""
    if x.dtype == torch.float64:
        top = x.abs().amax(1, keepdim=True)
        x = torch.where(top > 0, x / top, x)
    return (x if x.dtype in halves else x.float()).contiguous()


def as_array(t: Tensor) -> np.ndarray[Any, Any]:
    """View float32 as it is, and bfloat16, which NumPy does not know, by its bits."""
    return t.view(torch.int16).numpy().view(np.uint16) if t.dtype == torch.bfloat16 else t.numpy()


def _prune_maps(
    rows: Tensor, streams: Tensor, draws: int, site: int, name: str, kernel: Any, *more: np.float32
) -> Tensor:
    """Prune contiguous maps (N, a), or (N, H·W, C), by a kernel for their dtype and layout."""
    kept = torch.empty_like(rows)
    bad = np.zeros(len(rows), np.bool_)
    x, out, keys = as_array(rows), as_array(kept), streams.numpy()

    def work(start: int, stop: int) -> None:
        kernel(x[start:stop], out[start:stop], keys[start:stop], site, float(draws), bad[start:stop], *more)

    over_rows(work, len(x), x[0].size)
    if bad.any():
        raise not_finite(name, int(bad.sum()), len(x), int(keys[bad.argmax(), 2]))
    return kept


def _rescale(x: Tensor, kept: Tensor, draws: int) -> Tensor:
    """Scale the kept activations of (N, a) in their own precision."""
    return torch.where(kept, x / _inclusion(_shares(x), draws), 0.0)


def _shares(x: Tensor) -> Tensor:
    """Give p (N, a); zeros for a row of zeros."""
    mass = x.abs().sum(1, keepdim=True)
    return x.abs() / torch.where(mass > 0, mass, 1.0)


def _inclusion(p: Tensor, draws: int) -> Tensor:
    """Give 1 - (1 - p)^r without cancellation."""
    return -torch.expm1(draws * torch.log1p(-p))


@_prune.register_fake
def _(h: Tensor, streams: Tensor, draws: int, site: int, rule: str, name: str, rectify: bool = False) -> Tensor:
    return torch.empty_like(h)


@torch.library.custom_op("saplab::mask_gradient", mutates_args=(), device_types="cpu")
def _mask_gradient(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """Give grad * m, with m = out / h where an activation was kept and 0 elsewhere."""
    return _masked(grad, h, out, _scale_gradient if h.dtype in _GRADIENT_KERNELS else None)


@_mask_gradient.register_kernel("cuda")
def _mask_gradient_on_gpu(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    return _masked(grad, h, out, gpu_kernels("saplab.pruning.gpu").scale_gradients)


def _masked(grad: Tensor, h: Tensor, out: Tensor, scale: Callable[..., Tensor] | None) -> Tensor:
    """Scale by a kernel for tensors that lie in memory in one and the same dense order, or without one."""
    if scale is None or grad.dtype != h.dtype or h.numel() == 0:
        m = torch.where(out != 0, out.to(_at_least_float32(h)) / h, 0.0)
        return torch.empty_like(grad).copy_(grad * m)
    scaled = scale(*(t.detach().contiguous(memory_format=_dense_format(h)) for t in (grad, h, out)))
    result = torch.empty_like(grad)
    return scaled if scaled.stride() == result.stride() else result.copy_(scaled)


_GRADIENT_KERNELS = {torch.float32: scale_gradient, torch.bfloat16: scale_bfloat16_gradient}


def _scale_gradient(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """Scale over threads, of tensors that lie in memory in one and the same dense order."""
    result = torch.empty_like(grad)
    kernel = _GRADIENT_KERNELS[h.dtype]
    arrays = [as_array(t.as_strided((t.numel(),), (1,))) for t in (grad, h, out, result)]
    size = h.numel() // len(h)
    over_rows(lambda start, stop: kernel(*(t[start * size : stop * size] for t in arrays)), len(h), size)
    return result


def _at_least_float32(h: Tensor) -> torch.dtype:
    return torch.promote_types(h.dtype, torch.float32)


def _dense_format(h: Tensor) -> torch.memory_format:
    in_channels_last = h.dim() == 4 and h.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if in_channels_last and not h.is_contiguous() else torch.contiguous_format


@_mask_gradient.register_fake
def _(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    return torch.empty_like(grad)


def _probability_gradient(grad: Tensor, h: Tensor, out: Tensor, draws: int) -> Tensor:
    """Differentiate through p as well: dM_j/dh_i = m_j [i = j] - h_j m_j^2 r (1-p_j)^(r-1) dp_j/dh_i."""
    if h.numel() == 0:
        return torch.zeros_like(h)
    dtype = _at_least_float32(h)
    x, y, g = (t.reshape(len(h), -1).to(dtype) for t in (h, out, grad))
    p = _shares(x)
    kept = y != 0
    m = torch.where(kept, 1.0 / _inclusion(p, draws), 0.0)
    slope = draws * torch.exp((draws - 1) * torch.log1p(-p)) if draws > 1 else torch.ones_like(p)
    c = torch.where(kept, -g * x * m.square() * slope, 0.0)
    mass = x.abs().sum(1, keepdim=True)
    through_p = torch.sign(x) * (c - (c * p).sum(1, keepdim=True)) / torch.where(mass > 0, mass, 1.0)
    return (g * m + through_p).view(h.shape).to(h.dtype)


def _setup_prune(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, _, ctx.draws, _, ctx.rule, _, ctx.rectify = inputs
    if ctx.rule != "identity":
        ctx.save_for_backward(h, output)
    elif ctx.rectify:
        ctx.save_for_backward(h)


def _backward_prune(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradient(ctx, grad), None, None, None, None, None, None


def _gradient(ctx: Any, grad: Tensor) -> Tensor:
    """Give the gradient by h. What was rectified away was not kept, so the mask alone needs nothing more."""
    if ctx.rule == "mask":
        return torch.ops.saplab.mask_gradient(grad, *ctx.saved_tensors)  # type: ignore[no-any-return]
    if ctx.rule == "probability":
        h, out = ctx.saved_tensors
        grad = _probability_gradient(grad, h.relu() if ctx.rectify else h, out, ctx.draws)
    return torch.ops.aten.threshold_backward(grad, ctx.saved_tensors[0], 0) if ctx.rectify else grad


def _setup_mask(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward_mask(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.saplab.mask_gradient(grad, *ctx.saved_tensors), None, None


_prune.register_autograd(_backward_prune, setup_context=_setup_prune)
_mask_gradient.register_autograd(_backward_mask, setup_context=_setup_mask)

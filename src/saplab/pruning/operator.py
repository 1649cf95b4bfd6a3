"""Algorithm 1 as one torch operator, `saplab::prune`, with three rules for its gradient.

The kernel is chosen by the device of the input. Backward rules, for M(h) = h * m, m = [kept] / (1 - (1 - p)^r):

- ``mask``: m is a constant, so the gradient is grad * m (the paper's adversary).
- ``probability``: p, and so the scale in m, depends on h; only the draw itself is constant.
- ``identity``: the gradient passes unchanged (BPDA, Athalye et al. 2018).
"""

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from saplab.pruning.backward import inclusion, mask_gradient, probability_gradient, shares
from saplab.pruning.cpu import prune_rows
from saplab.pruning.finite import not_finite, note
from saplab.pruning.layouts import as_array, dense_format, prune_bfloat16_rows, prune_channels_last
from saplab.rng.gpu import gpu_kernels
from saplab.rng.operators import operator
from saplab.rng.threads import over_rows
from saplab.rng.tiles import NO_FLOOR

BackwardRule = Literal["mask", "probability", "identity"]
RULES: Final = get_args(BackwardRule)
MOST_DRAWS: Final = 1 << 53  # that the kernels can count

_ONE_THREAD: Final = 1 << 18  # activations that one thread copies while others would wake up
_KERNELS: Final = {torch.float32: prune_rows, torch.bfloat16: prune_bfloat16_rows}


def draws_of(percent: float, entries: int) -> int:
    """Return r = floor(percent · a / 100) draws among a entries; ValueError for more than can be counted."""
    if percent > 100 * MOST_DRAWS / max(entries, 1):
        raise ValueError(f"`percent` must give at most 2^53 draws, got {percent:g} for {entries} entries")
    return share_of(percent, entries)


def share_of(percent: float, entries: int) -> int:
    """Return so many percent of a number, rounded down; 32.3 % of 1,000 are 323, though floats give less."""
    return int(percent * entries / 100 + 1e-9)


def prune(
    h: Tensor, streams: Tensor, draws: int, site: int = 0, rule: BackwardRule = "mask", name: str = "activations",
    rectify: bool = False,
) -> Tensor:  # fmt: skip
    """Apply Stochastic Activation Pruning to each row of `h`: 0, or h / (1 - (1 - p)^r), in its dtype and format.

    Draws and scale are computed in float32 or better. Raises NotFiniteError where `h` holds NaN or infinity (on a GPU
    such a map becomes NaN, and `check_finite` raises); ValueError for `draws` outside 1..2^53, an unknown `rule`,
    `streams` of another length than `h`, or a call inside a transform of `torch.func`.

    Args:
        h: activations (N, ...), any floating dtype and memory format; each example is one map of a = C·H·W.
        streams: (N, 3) int64, see `saplab.rng.streams.pass_streams`; on the CPU, or on the device of `h`.
        draws: r, categorical draws with replacement per example.
        site: number of the site within the pass.
        name: what errors call these activations.
        rectify: prune relu(h) in the same pass over memory; the gradient is that of both.
    """
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise ValueError(f"{name}: torch.func cannot transform pruning; take gradients with torch.autograd")
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join(RULES)}, got {rule!r}")
    if not 1 <= draws <= MOST_DRAWS:
        raise ValueError(f"`draws` must be within 1..2^53, got {draws}")
    if streams.shape != (h.shape[0], 3):
        raise ValueError(f"`streams` must have shape ({len(h)}, 3), got {tuple(streams.shape)}")
    return _OPERATOR(h, streams, draws, site, rule, name, rectify)


def _prune(h: Tensor, streams: Tensor, draws: int, site: int, rule: str, name: str, rectify: bool = False) -> Tensor:
    keys, floor = streams.contiguous(), np.float32(0.0) if rectify else NO_FLOOR

    def prune_rows(rows: Tensor, floor: np.float32 = NO_FLOOR) -> Tensor:
        return _prune_maps(rows, keys, draws, site, name, _KERNELS[rows.dtype], floor)

    if h.numel() and h.dtype in _KERNELS and dense_format(h) == torch.channels_last:
        maps = h.detach().permute(0, 2, 3, 1).flatten(1, 2)
        kept = _prune_maps(maps, keys, draws, site, name, prune_channels_last, floor)
        return kept.view(len(h), *h.shape[2:], h.shape[1]).permute(0, 3, 1, 2)
    if h.numel() and h.dtype in _KERNELS and h.is_contiguous():
        return prune_rows(h.detach().view(len(h), -1), floor).view(h.shape)
    return _pruned(h.detach().relu() if rectify else h, draws, (torch.bfloat16,), prune_rows)


def _prune_on_gpu(
    h: Tensor, streams: Tensor, draws: int, site: int, rule: str, name: str, rectify: bool = False
) -> Tensor:
    kernels = gpu_kernels("saplab.pruning.gpu")
    keys = streams.to(h.device, non_blocking=True).contiguous()

    def prune_rows(rows: Tensor) -> Tensor:
        return kernels.prune_rows(rows, keys, draws, site, note(keys, name))  # type: ignore[no-any-return]

    return _pruned(h.detach().relu() if rectify else h, draws, (torch.bfloat16, torch.float16), prune_rows)


def _unwritten(
    h: Tensor, streams: Tensor, draws: int, site: int, rule: str, name: str, rectify: bool = False
) -> Tensor:
    return torch.empty_like(h)


def _pruned(h: Tensor, draws: int, halves: tuple[torch.dtype, ...], prune_rows: Callable[[Tensor], Tensor]) -> Tensor:
    """Prune by a kernel for contiguous rows (N, a) of float32 and of the types `halves`."""
    if h.numel() == 0:
        return torch.empty_like(h)
    x = h.detach()
    x = (x if x.is_contiguous() else _copied(x, torch.empty(x.shape, dtype=x.dtype, device=x.device))).view(len(h), -1)
    kept = prune_rows(_for_kernels(x, halves))
    if h.dtype == torch.float64:
        kept = torch.where(kept != 0, x / inclusion(shares(x), draws), 0.0)
    out = kept.view(h.shape)
    return out if out.dtype == h.dtype and out.stride() == h.stride() else _copied(out, torch.empty_like(h))


def _copied(source: Tensor, to: Tensor) -> Tensor:
    """Copy to a tensor of any memory format; a small one in the calling thread, as others would wake up too late."""
    if source.is_cpu and source.numel() <= _ONE_THREAD and source.dtype == to.dtype == torch.float32:
        np.copyto(to.numpy(), source.numpy())
        return to
    return to.copy_(source)


def _for_kernels(x: Tensor, halves: tuple[torch.dtype, ...]) -> Tensor:
    """Return contiguous rows in `halves` or float32; of float64 the relative sizes, which alone decide the draws."""
    if x.dtype == torch.float64:
        top = x.abs().amax(1, keepdim=True)
        x = torch.where(top > 0, x / top, x)
    return (x if x.dtype in halves else x.float()).contiguous()


def _prune_maps(
    rows: Tensor, streams: Tensor, draws: int, site: int, name: str, kernel: Any, floor: np.float32
) -> Tensor:
    """Prune max(maps, floor) of contiguous maps (N, a), or (N, H·W, C), by a kernel for their dtype and layout."""
    kept = torch.empty_like(rows)
    bad = np.zeros(len(rows), np.bool_)
    x, out, keys = as_array(rows), as_array(kept), streams.numpy()

    def work(start: int, stop: int) -> None:
        kernel(x[start:stop], out[start:stop], keys[start:stop], site, float(draws), bad[start:stop], floor)

    over_rows(work, len(x), x[0].size)
    if bad.any():
        raise not_finite(name, int(bad.sum()), len(x), int(keys[bad.argmax(), 2]))
    return kept


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, _, ctx.draws, _, ctx.rule, _, ctx.rectify = inputs
    if ctx.rule != "identity":
        ctx.save_for_backward(h, output)
    elif ctx.rectify:
        ctx.save_for_backward(h)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradient(ctx, grad), None, None, None, None, None, None


def _gradient(ctx: Any, grad: Tensor) -> Tensor:
    if ctx.rule == "mask":  # what was rectified away was not kept
        return mask_gradient(grad, *ctx.saved_tensors)
    if ctx.rule == "probability":
        h, out = ctx.saved_tensors
        grad = probability_gradient(grad, h.relu() if ctx.rectify else h, out, ctx.draws)
    return torch.ops.aten.threshold_backward(grad, ctx.saved_tensors[0], 0) if ctx.rectify else grad


_OPERATOR: Final = operator("prune", _prune, _prune_on_gpu, _unwritten, _backward, _setup)

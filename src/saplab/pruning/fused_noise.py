"""Noise that is drawn and applied to activation maps, behind a ReLU, in one pass over memory; an operator for the CPU.

An entry of a map gets the number that `saplab.rng.numbers` gives to its place in the order (C, H, W), whatever the
map's memory format.
"""

from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from saplab.pruning.layouts import as_array, dense_format
from saplab.rng.compiled import scalar_kernel, vector_kernel
from saplab.rng.numbers import KIND, normal_block
from saplab.rng.operators import operator
from saplab.rng.simd import BLOCK, fill_words, full_width, read, select, write
from saplab.rng.streams import row_counter
from saplab.rng.threads import over_rows
from saplab.rng.tiles import NO_FLOOR, transpose

Law = Literal["dropout", "add", "scale"]

_DROPOUT, _ADD, _SCALE = 0, 1, 2
_CODES: Final = {"dropout": _DROPOUT, "add": _ADD, "scale": _SCALE}
_F0, _F1 = np.float32(0.0), np.float32(1.0)


@vector_kernel
def _noise(bits: Any, values: Any, law: int, amount: Any) -> None:
    """Turn words into the terms or factors of activations."""
    full_width()
    if law == _DROPOUT:
        kept, level = _F1 / (_F1 - amount), np.uint32(np.ceil(amount * np.float32(1 << 24)))
        for i in range(values.shape[0]):  # u < amount, by the 24 bits that u is made of
            values[i] = select(bits[i] >> np.uint32(8) < level, _F0, kept)
        return
    normal_block(bits, values)
    mean = select(law == _SCALE, _F1, _F0)
    for i in range(values.shape[0]):
        values[i] = values[i] * amount + mean


@vector_kernel
def _apply(x: Any, values: Any, out: Any, law: int, floor: Any) -> None:
    full_width()
    if law == _ADD:
        for i in range(x.shape[0]):
            value = read(x[i])
            out[i] = write(select(value < floor, floor, value) + values[i], x[i])
        return
    for i in range(x.shape[0]):
        value = read(x[i])
        out[i] = write(select(value < floor, floor, value) * values[i], x[i])


@scalar_kernel
def _noise_rows(x: Any, out: Any, streams: Any, site: int, law: int, amount: Any, floor: Any) -> None:
    full_width()
    bits, values = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.float32)
    for n in range(x.shape[0]):
        c1, c2, c3, k0, k1 = row_counter(streams[n], site, KIND)
        for lo in range(0, x.shape[1], BLOCK):
            hi = min(lo + BLOCK, x.shape[1])
            fill_words(bits, lo // BLOCK, c1, c2, c3, k0, k1)
            _noise(bits, values, law, amount)
            _apply(x[n, lo:hi], values, out[n, lo:hi], law, floor)


@scalar_kernel
def _noise_channels_last(
    x: Any, out: Any, channels: int, streams: Any, site: int, law: int, amount: Any, floor: Any
) -> None:
    """Apply noise to maps (N, H·W·C).

    A map's noise is drawn in the order (C, H, W) and reordered in the cache. Drawing it in the order (H, W, C) at once,
    by the counters of a position in all channels, took twice as long.
    """
    full_width()
    size, places = x.shape[1], x.shape[1] // channels
    row, bits = np.empty(-(-size // BLOCK) * BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    values = np.empty(size, np.float32)
    for n in range(x.shape[0]):
        c1, c2, c3, k0, k1 = row_counter(streams[n], site, KIND)
        for lo in range(0, size, BLOCK):
            fill_words(bits, lo // BLOCK, c1, c2, c3, k0, k1)
            _noise(bits, row[lo : lo + BLOCK], law, amount)
        transpose(row[:size].reshape(channels, places), values.reshape(places, channels), NO_FLOOR)
        _apply(x[n], values, out[n], law, floor)


def can_noise(h: Tensor) -> bool:
    """Return whether `noised` takes these maps: float32 or bfloat16 on the CPU, not compiled or transformed."""
    return (
        not torch.compiler.is_compiling()
        and h.is_cpu
        and h.dtype in (torch.float32, torch.bfloat16)
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def noised(
    h: Tensor, streams: Tensor, site: int, law: Law, amount: float, through: bool = True, rectify: bool = False
) -> Tensor:
    """Apply noise to the maps `h` (N, ...), which `can_noise` accepts; return maps like them.

    Args:
        h, streams, site: as in `saplab.pruning.operator.prune`.
        law: ``dropout``: h·[u >= amount] / (1 - amount), u uniform in [0, 1); ``add``: h + amount·z, z standard normal;
            ``scale``: h·(1 + amount·z).
        amount: rate, or standard deviation.
        through: multiply the gradient by the factor; else it passes unchanged.
        rectify: apply the noise to relu(h) in the same pass over memory; the gradient is that of both.
    """
    return _OPERATOR(h, streams, site, _CODES[law], amount, through, rectify)


def _noised(
    h: Tensor, streams: Tensor, site: int, law: int, amount: float, through: bool, rectify: bool = False
) -> Tensor:
    x = h.detach()
    innermost = dense_format(x) == torch.channels_last
    x = x if innermost else x.contiguous()
    out = torch.empty_like(x)
    if h.numel() == 0:
        return out
    maps, results = (as_array((t.permute(0, 2, 3, 1) if innermost else t).reshape(len(t), -1)) for t in (x, out))
    keys, level, floor = streams.contiguous().numpy(), np.float32(amount), _F0 if rectify else NO_FLOOR

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        if innermost:
            _noise_channels_last(maps[part], results[part], x.shape[1], keys[part], site, law, level, floor)
        else:
            _noise_rows(maps[part], results[part], keys[part], site, law, level, floor)

    over_rows(work, len(x), x[0].numel())
    return out if out.stride() == torch.empty_like(h).stride() else torch.empty_like(h).copy_(out)


def _unwritten(
    h: Tensor, streams: Tensor, site: int, law: int, amount: float, through: bool, rectify: bool = False
) -> Tensor:
    return torch.empty_like(h)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, streams, *ctx.drawn, rectify = inputs
    _, law, _, through = ctx.drawn
    ctx.known = rectify and through and law == _DROPOUT  # what passed is above 0, and all of it by one factor
    ctx.save_for_backward(streams, *([output if ctx.known else h] if rectify else []))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Multiply by the same factors, which are known or drawn again, faster than kept, and by the ReLU's derivative."""
    streams, *rectified = ctx.saved_tensors
    _, law, amount, through = ctx.drawn
    if ctx.known:
        grad = grad * float(_F1 / (_F1 - np.float32(amount)))
    elif through and law != _ADD:
        grad = torch.ops.saplab.noised(grad, streams, *ctx.drawn)
    if rectified:
        grad = torch.ops.aten.threshold_backward(grad, rectified[0], 0)
    return grad, None, None, None, None, None, None


_OPERATOR: Final = operator("noised", _noised, None, _unwritten, _backward, _setup)

"""Noise that is drawn and applied to activation maps, behind a ReLU, in one pass over memory; an operator for the CPU.

An entry of a map gets the number that `saplab.rng.numbers` gives to its place in the order (C, H, W), whatever the
map's memory format.
"""

from typing import Any, Final, Literal

import numpy as np
import torch
from numba import njit
from torch import Tensor

from saplab.pruning.layouts import as_array, dense_format
from saplab.rng.compiled import scalar_kernel, vector_kernel
from saplab.rng.numbers import KIND, normal_blocks
from saplab.rng.operators import operator
from saplab.rng.simd import (
    BLOCK,
    PIECE,
    bits_of_float,
    fill_words,
    full_width,
    fused,
    read,
    select,
    whole_blocks,
    write,
)
from saplab.rng.streams import row_counter
from saplab.rng.threads import over_rows
from saplab.rng.tiles import NO_FLOOR, TILE, add_turned, ask_to_read_and_write, multiply_turned

Law = Literal["dropout", "add", "scale"]

_DROPOUT, _ADD, _SCALE = 0, 1, 2
_CODES: Final = {"dropout": _DROPOUT, "add": _ADD, "scale": _SCALE}
_AHEAD: Final = 2 * BLOCK  # words that are drawn at once, while lines come from memory
_PART: Final = 4096  # entries, of 16 KiB: as much noise, maps and results fit the cache next to a core
_F0, _F1 = np.float32(0.0), np.float32(1.0)
_ROUGH = np.float32(2.0**-60)  # a product with an activation below, or above the inverse, may have lost digits


@vector_kernel
def _kept(bits: Any, amount: Any) -> None:
    """Turn words into the bits of dropout's factors, in their place."""
    full_width()
    kept, level = _F1 / (_F1 - amount), np.uint32(np.ceil(amount * np.float32(1 << 24)))
    for i in range(bits.shape[0]):  # u < amount, by the 24 bits that u is made of
        bits[i] = np.uint32(bits_of_float(select(bits[i] >> np.uint32(8) < level, _F0, kept)))


@scalar_kernel  # the term is rounded before it is added, as in `add_turned`
def _add(x: Any, values: Any, out: Any, floor: Any, factor: Any, mean: Any) -> None:
    full_width()
    for i in range(x.shape[0]):
        value = read(x[i])
        out[i] = write(select(value < floor, floor, value) + fused(values[i], factor, mean), x[i])


@vector_kernel
def _multiply(x: Any, values: Any, out: Any, floor: Any, factor: Any, mean: Any) -> None:
    full_width()
    for i in range(x.shape[0]):
        value = read(x[i])
        out[i] = write(select(value < floor, floor, value) * fused(values[i], factor, mean), x[i])


@njit(inline="always")
def _noise(
    bits: Any, block: Any, step: Any, law: Any, amount: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any
) -> None:
    """Draw blocks of standard normal numbers, or of dropout's factors, as their bits."""
    fill_words(bits, block, step, c1, c2, c3, k0, k1)
    if law == _DROPOUT:
        _kept(bits, amount)
    else:
        normal_blocks(bits)


@njit(inline="always")
def _line_of(law: Any, amount: Any) -> Any:
    """Return by what a number of `_noise` is multiplied, and what is added, to make a term or a factor."""
    return (_F1, _F0) if law == _DROPOUT else (amount, select(law == _SCALE, _F1, _F0))


@scalar_kernel
def _noise_rows(x: Any, out: Any, streams: Any, site: int, law: int, amount: Any, floor: Any) -> None:
    full_width()
    bits = np.empty(PIECE, np.uint32)
    values = bits.view(np.float32)
    factor, mean = _line_of(law, amount)
    for n in range(x.shape[0]):
        c1, c2, c3, k0, k1 = row_counter(streams[n], site, KIND)
        for lo in range(0, x.shape[1], PIECE):
            hi = min(lo + PIECE, x.shape[1])
            _noise(bits[: whole_blocks(hi - lo)], lo // BLOCK, 1, law, amount, c1, c2, c3, k0, k1)
            if law == _ADD:
                _add(x[n, lo:hi], values, out[n, lo:hi], floor, factor, mean)
            else:
                _multiply(x[n, lo:hi], values, out[n, lo:hi], floor, factor, mean)


@scalar_kernel
def _noise_channels_last(
    x: Any, out: Any, channels: int, streams: Any, site: int, law: int, amount: Any, floor: Any
) -> None:
    """Apply noise to maps (N, H·W·C).

    Noise is drawn in the order (C, H, W), a part of a map at a time, and turned over in the cache. While it is drawn,
    the part's lines come from memory: without that, a call took 1.3 to 1.7 times as long. Drawing in the order
    (H, W, C) at once, by the counters of a position in all channels, took twice as long.
    """
    full_width()
    places = x.shape[1] // channels
    depth, width, step = _part_of(channels, places)
    ahead = depth % TILE == 0 and _AHEAD % depth == 0 and depth * width % _AHEAD == 0
    piece = _AHEAD if ahead else whole_blocks(depth * width)
    bits = np.empty(whole_blocks(depth * width), np.uint32)
    values = bits.view(np.float32)[: depth * width].reshape(depth, width)
    factor, mean = _line_of(law, amount)
    for n in range(x.shape[0]):
        c1, c2, c3, k0, k1 = row_counter(streams[n], site, KIND)
        maps, results = x[n].reshape(places, channels), out[n].reshape(places, channels)
        for at in range(0, places, width):
            for first in range(0, channels, depth):
                for lo in range(0, len(bits), piece):
                    if ahead:
                        ask_to_read_and_write(maps, results, at + lo // depth, at + (lo + piece) // depth, first, depth)
                    block = (first * places + at) // BLOCK + lo // BLOCK * step
                    _noise(bits[lo : lo + piece], block, step, law, amount, c1, c2, c3, k0, k1)
                if law == _ADD:
                    add_turned(values, maps, results, at, first, floor, factor, mean)
                else:
                    multiply_turned(values, maps, results, at, first, floor, factor, mean)


@njit(inline="always")
def _part_of(channels: Any, places: Any) -> Any:
    """Return how many channels and positions of a map are drawn at once, and how far apart their blocks of words are.

    Where blocks of words end with the rows of channels, a part has at most _PART entries; else it is the whole map.
    """
    width = min(places, BLOCK)
    depth = TILE
    while channels % (2 * depth) == 0 and 2 * depth * width <= _PART and 2 * depth <= _AHEAD:
        depth *= 2
    if channels % depth == 0 and places % width == 0 and depth * width % BLOCK == 0:
        return depth, width, max(places // BLOCK, 1)
    return channels, places, 1


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
    ctx.ratio = rectify and through and law == _SCALE and h.dtype == torch.float32
    ctx.save_for_backward(streams, *([output if ctx.known else h] if rectify else []), *([output] if ctx.ratio else []))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Multiply by the same factors, which are known, a quotient, or drawn again, and by the ReLU's derivative."""
    streams, *rectified = ctx.saved_tensors
    site, law, amount, through = ctx.drawn
    if ctx.ratio:
        h, scaled = rectified
        return _RESCALED(grad, h, scaled, streams, site, amount), None, None, None, None, None, None
    if ctx.known:
        grad = grad * float(_F1 / (_F1 - np.float32(amount)))
    elif through and law != _ADD:
        grad = torch.ops.saplab.noised(grad, streams, *ctx.drawn)
    if rectified:
        grad = torch.ops.aten.threshold_backward(grad, rectified[0], 0)
    return grad, None, None, None, None, None, None


_OPERATOR: Final = operator("noised", _noised, None, _unwritten, _backward, _setup)


@vector_kernel
def _rescale(grad: Any, x: Any, scaled: Any, out: Any) -> Any:
    """Write grad·(scaled / x) where x > 0, else 0; return how many quotients may be rough."""
    full_width()
    rough = _F0
    for i in range(x.shape[0]):
        off = x[i] <= _F0
        level = select(off, _F1, x[i])
        rough += select(level >= _ROUGH, _F0, _F1) + select(level <= _F1 / _ROUGH, _F0, _F1)
        out[i] = select(off, _F0, grad[i] * (scaled[i] / level))
    return rough


@scalar_kernel
def _rescale_rows(grad: Any, x: Any, scaled: Any, out: Any) -> Any:
    full_width()
    rough = 0.0
    for n in range(x.shape[0]):
        rough += _rescale(grad[n], x[n], scaled[n], out[n])
    return rough


def _rescaled(grad: Tensor, h: Tensor, scaled: Tensor, streams: Tensor, site: int, amount: float) -> Tensor:
    """Multiply a gradient by the factors of `scaled` / relu(h), and by the ReLU's derivative.

    The quotient is the factor to float32's rounding, and takes less time than to draw it again.
    """
    out = torch.empty_like(h)
    if scaled.stride() == h.stride() and h.numel() > 0:  # all of them without gaps
        grad = grad if grad.stride() == h.stride() else torch.empty_like(h).copy_(grad)
        flat = [t.as_strided((len(h), h[0].numel()), (h[0].numel(), 1)) for t in (grad, h, scaled, out)]
        gradients, maps, results, written = (t.detach().numpy() for t in flat)
        rough: list[float] = []

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            rough.append(_rescale_rows(gradients[part], maps[part], results[part], written[part]))

        over_rows(work, len(h), h[0].numel())
        if not any(rough):
            return out
    again = _noised(grad, streams, site, _SCALE, amount, True)
    return out.copy_(torch.ops.aten.threshold_backward(again, h, 0))


def _rescaled_unwritten(grad: Tensor, h: Tensor, scaled: Tensor, streams: Tensor, site: int, amount: float) -> Tensor:
    return torch.empty_like(h)


def _setup_rescaled(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, h, scaled, streams, *ctx.drawn = inputs
    ctx.save_for_backward(h, scaled, streams)


def _backward_rescaled(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _RESCALED(grad, *ctx.saved_tensors, *ctx.drawn), None, None, None, None, None


_RESCALED: Final = operator("rescaled", _rescaled, None, _rescaled_unwritten, _backward_rescaled, _setup_rescaled)

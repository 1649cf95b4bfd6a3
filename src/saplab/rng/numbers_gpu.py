"""The numbers of `saplab.rng.numbers` on a GPU; normal ones are the same up to rounding."""

import math

import torch
import triton
import triton.language as tl

from saplab.rng.gpu import on_device_of
from saplab.rng.numbers import CODES, dtype_of
from saplab.rng.triton_words import philox, place_in_blocks, stream

_UNIFORM, _NORMAL = tl.constexpr(CODES["uniform"]), tl.constexpr(CODES["normal"])
_TILE = 1024


@triton.jit
def _log(x):
    """Compute log x of a normal float32 x > 0."""
    bits = x.to(tl.int32, bitcast=True)
    m = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    high = m > _ROOT2
    m = tl.where(high, m * 0.5, m)
    e = ((bits >> 23) - 127).to(tl.float32) + tl.where(high, 1.0, 0.0)
    s = (m - 1.0) / (m + 1.0)
    t = s * s
    return e * _LN2 + s * (2.0 + t * (2.0 / 3 + t * (2.0 / 5 + t * (2.0 / 7 + t * (2.0 / 9)))))


@triton.jit
def _two_normals(first, second):
    """Turn two words into two standard normals (Box & Muller 1958): radius from one, angle from the other."""
    radius = tl.sqrt(-2.0 * _log((first.to(tl.float32) + 0.5) * 2.0**-32))
    turn = (second >> 1).to(tl.float32) * 2.0**-31
    quarter = (turn * 4.0 + 0.5).to(tl.int32)
    a = (turn - quarter.to(tl.float32) * 0.25) * _TAU
    t = a * a
    sin = a * (1.0 + t * (-1.0 / 6 + t * (1.0 / 120 + t * (-1.0 / 5040))))
    cos = 1.0 + t * (-0.5 + t * (1.0 / 24 + t * (-1.0 / 720 + t * (1.0 / 40320))))
    odd = (quarter & 1) == 1
    signed = tl.where((quarter & 2) == 2, -radius, radius)
    return signed * tl.where(odd, -sin, cos), signed * tl.where(odd, cos, sin)


@triton.jit
def _uniform(word):
    return (word >> 8).to(tl.float32) * 2.0**-24


@triton.jit(do_not_specialize=["site", "kind"])
def fill(out, streams, n, size, site, kind, LAW: tl.constexpr, TILE: tl.constexpr):
    """Write numbers of the streams (n, 3) to `out` (n, size); a program writes TILE numbers of one row.

    The grid has one axis, as the others end at 65,535.
    """
    tiles = (size + TILE - 1) // TILE
    rows = (tl.program_id(0) // tiles + tl.arange(0, 1)).to(tl.int64)[:, None]
    live = rows < n
    lane = tl.arange(0, TILE // 4)[None, :]
    start = tl.program_id(0) % tiles * TILE
    w0, w1, w2, w3 = philox(start // 4 + lane, stream(streams, rows, live, site, kind))
    if LAW == _NORMAL:
        v0, v2 = _two_normals(w0, w2)
        v1, v3 = _two_normals(w1, w3)
    elif LAW == _UNIFORM:
        v0, v1, v2, v3 = _uniform(w0), _uniform(w1), _uniform(w2), _uniform(w3)
    else:
        v0, v1, v2, v3 = w0, w1, w2, w3
    for part in tl.static_range(4):
        column = start + place_in_blocks(lane, part)
        value = v0 if part == 0 else v1 if part == 1 else v2 if part == 2 else v3
        tl.store(out + rows * size + column, value.to(out.dtype.element_ty), mask=live & (column < size))


_ROOT2 = tl.constexpr(math.sqrt(2.0))
_LN2 = tl.constexpr(math.log(2.0))
_TAU = tl.constexpr(2.0 * math.pi)


def variates(streams: torch.Tensor, size: int, site: int, law: str, kind: int) -> torch.Tensor:
    """Draw (N, size) numbers of a law for the streams (N, 3) on their device."""
    out = torch.empty((len(streams), size), dtype=dtype_of(law), device=streams.device)
    if out.numel():
        n = len(streams)
        with on_device_of(streams):
            fill[(n * -(-size // _TILE),)](out, streams.contiguous(), n, size, site, kind, LAW=CODES[law], TILE=_TILE)
    return out

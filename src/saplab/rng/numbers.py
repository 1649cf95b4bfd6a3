"""Normal and uniform numbers and random words of streams, as one torch operator for CPU and GPU."""

import math
from typing import Any, Final

import numpy as np
import torch
from numba import njit
from torch import Tensor

from saplab.rng.compiled import scalar_kernel, vector_kernel
from saplab.rng.gpu import gpu_kernels
from saplab.rng.operators import operator
from saplab.rng.simd import BLOCK, PIECE, bits_of_float, fill_words, float_from_bits, full_width, select, whole_blocks
from saplab.rng.streams import row_counter
from saplab.rng.threads import over_rows

KIND: Final = 4  # see `saplab.rng.streams`
_NORMAL, _WORD = 1, 2
_PAIRS: Final = BLOCK // 2  # of normal numbers in a block
CODES: Final = {"uniform": 0, "normal": _NORMAL, "word": _WORD}  # of the laws

_HALF, _F1, _TWO, _QUARTERS = (np.float32(x) for x in (0.5, 1.0, 2.0, 2.0**-29))
_MANTISSA: Final = np.int32(0x7FFFFF)
_ABOVE: Final = np.int32(np.float32(math.sqrt(0.5)).view(np.int32) + 1)  # the next number after sqrt(1/2)
_SCALE_BITS: Final = np.int32(32 << 23)  # of a factor 2^-32
_RIGHT_ANGLE = np.float32(0.5 * math.pi)
# -2 log(2^e m) = e·_E + s·(_L1 + t·(_L3 + ...)), s = (m - 1) / (m + 1), t = s²
_E, _L1, _L3, _L5, _L7, _L9 = (
    np.float32(-2.0) * np.float32(x) for x in (math.log(2.0), *(2 / n for n in (1, 3, 5, 7, 9)))
)
_S3, _S5, _S7 = (np.float32((-1.0) ** ((n - 1) // 2) / math.factorial(n)) for n in (3, 5, 7))
_K2, _K4, _K6, _K8 = (np.float32((-1.0) ** (n // 2) / math.factorial(n)) for n in (2, 4, 6, 8))


@njit(inline="always")
def _squared_radius(word: Any) -> Any:
    """Compute -2 log((`word` + 1/2) / 2^32), in a form that vectorises."""
    rest: Any = bits_of_float(np.float32(word) + _HALF) - _ABOVE  # 2^e m, sqrt(1/2) < m <= sqrt(2)
    m: Any = float_from_bits(np.int32((rest & _MANTISSA) + _ABOVE))
    e = np.float32(np.int32(np.int32(rest - _SCALE_BITS) >> np.int32(23)))
    s = (m - _F1) / (m + _F1)
    t = s * s
    return e * _E + s * (_L1 + t * (_L3 + t * (_L5 + t * (_L7 + t * _L9))))


@njit(inline="always")
def _negated(x: Any, negate: Any) -> Any:
    """Return -x where `negate`, an int32, is the sign bit, and x where it is 0."""
    return float_from_bits(np.int32(bits_of_float(x) ^ negate))


@vector_kernel
def normal_blocks(bits: Any) -> None:
    """Turn blocks of words into the bits of as many standard normals (Box & Muller 1958), in their place.

    Radii come from the first half of a block, angles from the second.
    """
    full_width()
    for lo in range(0, bits.shape[0], BLOCK):
        radii, turns = bits[lo : lo + _PAIRS], bits[lo + _PAIRS : lo + BLOCK]
        for i in range(radii.shape[0]):
            radius = np.float32(math.sqrt(_squared_radius(radii[i])))
            turn = np.float32(np.int32(turns[i] >> np.uint32(1))) * _QUARTERS
            quarter = np.int32(turn + _HALF)
            a = (turn - np.float32(quarter)) * _RIGHT_ANGLE
            t = a * a
            sin = a * (_F1 + t * (_S3 + t * (_S5 + t * _S7)))
            cos = _F1 + t * (_K2 + t * (_K4 + t * (_K6 + t * _K8)))
            odd = (quarter & np.int32(1)) != 0
            signed = _negated(radius, np.int32(np.int32(quarter & np.int32(2)) << np.int32(30)))
            radii[i] = np.uint32(bits_of_float(signed * select(odd, -sin, cos)))
            turns[i] = np.uint32(bits_of_float(signed * select(odd, cos, sin)))


@vector_kernel
def uniform_numbers(bits: Any) -> None:
    """Turn words into the bits of as many uniform numbers in [0, 1), in their place."""
    full_width()
    for i in range(bits.shape[0]):
        bits[i] = np.uint32(bits_of_float(np.float32(bits[i] >> np.uint32(8)) * np.float32(2.0**-24)))


@scalar_kernel
def _fill_rows(out: Any, streams: Any, site: int, kind: int, law: int) -> None:
    full_width()
    bits = np.empty(PIECE, np.uint32)
    values = bits.view(np.float32)
    for n in range(out.shape[0]):
        c1, c2, c3, k0, k1 = row_counter(streams[n], site, kind)
        for lo in range(0, out.shape[1], PIECE):
            hi = min(lo + PIECE, out.shape[1])
            drawn = whole_blocks(hi - lo)
            fill_words(bits[:drawn], lo // BLOCK, 1, c1, c2, c3, k0, k1)
            if law == _WORD:
                out[n, lo:hi] = bits[: hi - lo]
                continue
            if law == _NORMAL:
                normal_blocks(bits[:drawn])
            else:
                uniform_numbers(bits[:drawn])
            out[n, lo:hi] = values[: hi - lo]


def _variates(streams: Tensor, size: int, site: int, law: str, kind: int) -> Tensor:
    out = torch.empty((len(streams), size), dtype=dtype_of(law))
    values, rows = out.numpy(), streams.contiguous().numpy()
    over_rows(lambda a, b: _fill_rows(values[a:b], rows[a:b], site, kind, CODES[law]), len(streams), size)
    return out


def _variates_on_gpu(streams: Tensor, size: int, site: int, law: str, kind: int) -> Tensor:
    return gpu_kernels("saplab.rng.numbers_gpu").variates(streams, size, site, law, kind)  # type: ignore[no-any-return]


def _unwritten(streams: Tensor, size: int, site: int, law: str, kind: int) -> Tensor:
    return streams.new_empty((streams.shape[0], size), dtype=dtype_of(law))


_OPERATOR: Final = operator("variates", _variates, _variates_on_gpu, _unwritten)


def dtype_of(law: str) -> torch.dtype:
    """Return the type of the numbers of a law."""
    return torch.int64 if law == "word" else torch.float32


def normals(streams: Tensor, size: int, site: int = 0, kind: int = KIND) -> Tensor:
    """Draw standard normal numbers, float32 (N, size).

    Args:
        streams: (N, 3) int64, see `saplab.rng.streams.pass_streams`; the numbers come on their device.
        size: how many numbers to draw from each stream.
        site: number of the site within the pass.
        kind: 0 to 255; draws of other kinds are independent.
    """
    return _draw("normal", streams, size, site, kind)


def uniforms(streams: Tensor, size: int, site: int = 0, kind: int = KIND) -> Tensor:
    """Draw numbers uniform in [0, 1), multiples of 2^-24, float32 (N, size); arguments as in `normals`."""
    return _draw("uniform", streams, size, site, kind)


def words(streams: Tensor, size: int, site: int = 0, kind: int = KIND) -> Tensor:
    """Draw integers uniform in [0, 2^32), int64 (N, size), of which `uniforms` are the first 24 bits."""
    return _draw("word", streams, size, site, kind)


def _draw(law: str, streams: Tensor, size: int, site: int, kind: int) -> Tensor:
    return _OPERATOR(streams, size, site, law, kind)

# mypy: disable-error-code="untyped-decorator, call-arg"
"""Numba kernels to compare saplab's with: independent Bernoulli pruning, and loops of one kind of work.

Independent Bernoulli pruning has SAP's marginals but another law. It uses the generator, exponential, threads and
vector width of `saplab.pruning.cpu`, with one uniform and one exponential per activation and no correction of the
total, so that it shows what exactness costs. The loops show what the processor can do at most.
"""

from typing import Any, Final

import numpy as np
import torch
from numba import njit
from torch import Tensor

from saplab.pruning.cpu import _mass, _one_minus_exp
from saplab.rng.compiled import scalar_kernel, vector_kernel
from saplab.rng.simd import BLOCK, PIECE, fill_words, full_width, select
from saplab.rng.streams import row_counter
from saplab.rng.threads import over_rows

FUSED: Final = 32  # multiply-adds of each element and repeat
_TWO_M32 = np.float32(2.0**-32)
_LIMIT = np.float32(60.0)
_ZERO, _ONE, _HALF = (np.float32(v) for v in (0.0, 1.0, 0.5))
_L3, _L4, _L5 = (np.float32(1.0 / n) for n in range(3, 6))


@vector_kernel
def _prune_piece(x: Any, bits: Any, out: Any, c: Any, share: Any) -> None:
    """Keep each element with probability 1 - (1 - p)^r, by the series of log1p."""
    full_width()
    for i in range(x.shape[0]):
        rate = abs(x[i]) * c
        p = rate * share
        exponent = rate * (_ONE + p * (_HALF + p * (_L3 + p * (_L4 + p * _L5))))
        inclusion = _one_minus_exp(min(exponent, _LIMIT))
        out[i] = select(np.float32(bits[i]) * _TWO_M32 < inclusion, x[i] / inclusion, _ZERO)


@scalar_kernel
def independent_rows(x: Any, out: Any, streams: Any, draws: float) -> None:
    """Prune the rows of `x` (N, a) as `prune_independently` does, and write them to `out`."""
    full_width()
    bits = np.empty(PIECE, np.uint32)
    share = np.float32(1.0 / draws)
    for n in range(x.shape[0]):
        c = np.float32(draws / _mass(x[n]))
        c1, c2, c3, k0, k1 = row_counter(streams[n], 0, 0)
        for lo in range(0, x.shape[1], PIECE):
            hi = min(lo + PIECE, x.shape[1])
            fill_words(bits[: hi - lo], lo // BLOCK, 1, c1, c2, c3, k0, k1)
            _prune_piece(x[n, lo:hi], bits, out[n, lo:hi], c, share)


def prune_independently(h: Tensor, streams: Tensor, draws: int) -> Tensor:
    """Keep each activation of rows (N, a) independently; a is a multiple of 128, and no share of a row is large."""
    if h.shape[1] % BLOCK:
        raise ValueError(f"`h` must have a multiple of {BLOCK} columns, got {h.shape[1]}")
    out = torch.empty_like(h)
    x, y, keys = h.numpy(), out.numpy(), streams.numpy()
    over_rows(lambda a, b: independent_rows(x[a:b], y[a:b], keys[a:b], float(draws)), *x.shape)
    return out


@njit(inline="always")
def _eight(y: Any, a: Any, b: Any) -> Any:
    y = y * a + b
    y = y * a + b
    y = y * a + b
    y = y * a + b
    y = y * a + b
    y = y * a + b
    y = y * a + b
    return y * a + b


@vector_kernel
def fuse(x: Any, a: Any, b: Any, repeats: Any) -> None:
    """Apply y·a + b FUSED times to each of the (n,) float32 `x`, `repeats` times over; `x` fits the first cache."""
    full_width()
    for _ in range(repeats):
        for i in range(x.shape[0]):
            x[i] = _eight(_eight(_eight(_eight(x[i], a, b), a, b), a, b), a, b)


@scalar_kernel
def draw_words(repeats: Any) -> Any:
    """Draw `repeats` pieces of PIECE Philox words; return the xor of some, so that none is optimised away."""
    full_width()
    bits = np.empty(PIECE, np.uint32)
    total = np.uint32(0)
    zero = np.uint64(0)
    for piece in range(repeats):
        fill_words(bits, piece * (PIECE // BLOCK), 1, zero, zero, zero, zero, zero)
        total ^= bits[piece % PIECE]
    return total


@vector_kernel
def exponentials(x: Any, out: Any, repeats: Any) -> None:
    """Write 1 - e^-x of the (n,) float32 `x` to `out`, `repeats` times over; both fit the first cache."""
    full_width()
    for k in range(repeats):
        shift = np.float32(k & 1)
        for i in range(x.shape[0]):
            out[i] = _one_minus_exp(x[i] + shift)

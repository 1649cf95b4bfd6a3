# mypy: disable-error-code="untyped-decorator, call-arg"
"""Independent Bernoulli pruning with SAP's marginals: another law, and the cheapest fair opponent of the exact kernel.

The same generator, the same exponential, the same threads and vector width as `saplab.pruning.cpu`; one uniform and
one exponential an activation, and no correction of the total. It says what exactness costs.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from saplab.pruning.cpu import _mass, _one_minus_exp
from saplab.rng.simd import BLOCK, fill_words, full_width, scalar_kernel, select, vector_kernel
from saplab.rng.streams import row_counter
from saplab.rng.threads import over_rows

_TWO_M32 = np.float32(2.0**-32)
_LIMIT = np.float32(60.0)
_ZERO, _ONE, _HALF = (np.float32(v) for v in (0.0, 1.0, 0.5))
_L3, _L4, _L5 = (np.float32(1.0 / n) for n in range(3, 6))


@vector_kernel
def _prune_block(x: Any, bits: Any, out: Any, c: Any, share: Any) -> None:
    """Keep each element with probability 1 - (1 - p)^r, by the series of log1p."""
    full_width()
    for i in range(BLOCK):
        rate = abs(x[i]) * c
        p = rate * share
        exponent = rate * (_ONE + p * (_HALF + p * (_L3 + p * (_L4 + p * _L5))))
        inclusion = _one_minus_exp(min(exponent, _LIMIT))
        out[i] = select(np.float32(bits[i]) * _TWO_M32 < inclusion, x[i] / inclusion, _ZERO)


@scalar_kernel
def independent_rows(x: Any, out: Any, streams: Any, draws: float) -> None:
    """Do as `prune_independently` with arrays; write `out` (N, a)."""
    full_width()
    bits = np.empty(BLOCK, np.uint32)
    share = np.float32(1.0 / draws)
    for n in range(x.shape[0]):
        c = np.float32(draws / _mass(x[n]))
        c1, c2, c3, k0, k1 = row_counter(streams[n], 0, 0)
        for block in range(x.shape[1] // BLOCK):
            lo = block * BLOCK
            fill_words(bits, block, c1, c2, c3, k0, k1)
            _prune_block(x[n, lo : lo + BLOCK], bits, out[n, lo : lo + BLOCK], c, share)


def prune_independently(h: Tensor, streams: Tensor, draws: int) -> Tensor:
    """Prune rows (N, a), a a multiple of 128, each activation by a coin of its own. For maps without large shares."""
    if h.shape[1] % BLOCK:
        raise ValueError(f"`h` must have a multiple of {BLOCK} columns, got {h.shape[1]}")
    out = torch.empty_like(h)
    x, y, keys = h.numpy(), out.numpy(), streams.numpy()
    over_rows(lambda a, b: independent_rows(x[a:b], y[a:b], keys[a:b], float(draws)), *x.shape)
    return out

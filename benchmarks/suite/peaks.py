# mypy: disable-error-code="untyped-decorator, call-arg"
"""Kernels that do one kind of work as fast as a processor can: fused multiply-adds, Philox words, exponentials."""

from typing import Any, Final

import numpy as np
from numba import njit

from saplab.pruning.cpu import _one_minus_exp
from saplab.rng.simd import BLOCK, fill_words, full_width, scalar_kernel, vector_kernel

FUSED: Final = 32  # multiply-adds of each element and repeat


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
    """Draw `repeats` blocks of BLOCK Philox words; give their sum, so that none is left out."""
    full_width()
    bits = np.empty(BLOCK, np.uint32)
    total = np.uint32(0)
    zero = np.uint64(0)
    for block in range(repeats):
        fill_words(bits, block, zero, zero, zero, zero, zero)
        total ^= bits[block % BLOCK]
    return total


@vector_kernel
def exponentials(x: Any, out: Any, repeats: Any) -> None:
    """Write 1 - e^-x of the (n,) float32 `x` into `out`, `repeats` times over; both fit the first cache."""
    full_width()
    for k in range(repeats):
        shift = np.float32(k & 1)
        for i in range(x.shape[0]):
            out[i] = _one_minus_exp(x[i] + shift)

"""Rows in other shapes than float32 side by side: bfloat16, and maps whose channels lie innermost in memory.

A row becomes contiguous float32 while it lies in the cache, in the order (C, H, W), so that draws do not depend on how
a map is stored.
"""

from typing import Any

import numpy as np

from saplab.pruning.cpu import prune_any_row, scratch_for
from saplab.rng.simd import full_width, narrow, narrow_row, scalar_kernel, vector_kernel, widen, widen_row


@scalar_kernel
def prune_bfloat16_rows(x: Any, out: Any, streams: Any, site: int, draws: float, bad: Any) -> None:
    """Do as `prune_rows` with the bits of bfloat16 numbers, as uint16, (N, a)."""
    full_width()
    scratch, proposals = scratch_for(x.shape[1])
    wide, pruned = np.empty(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    for n in range(x.shape[0]):
        widen_row(x[n], wide)
        bad[n] = not prune_any_row(wide, pruned, draws, streams[n], site, scratch, proposals)
        narrow_row(pruned, out[n])


@scalar_kernel
def prune_channels_last(x: Any, out: Any, streams: Any, site: int, draws: float, bad: Any, floor: Any) -> None:
    """Do as `prune_rows` with float32 maps (N, H·W, C), raised to `floor`: 0 rectifies, -infinity changes nothing."""
    full_width()
    size = x.shape[1] * x.shape[2]
    scratch, proposals = scratch_for(size)
    row, pruned = np.empty(size, np.float32), np.zeros(size, np.float32)
    for n in range(x.shape[0]):
        _gather(x[n], row, floor)
        bad[n] = not prune_any_row(row, pruned, draws, streams[n], site, scratch, proposals)
        scatter(pruned, out[n])


@scalar_kernel
def prune_bfloat16_channels_last(x: Any, out: Any, streams: Any, site: int, draws: float, bad: Any, floor: Any) -> None:
    """Do as `prune_channels_last` with the bits of bfloat16 maps, as uint16, (N, H·W, C)."""
    full_width()
    size = x.shape[1] * x.shape[2]
    scratch, proposals = scratch_for(size)
    row, pruned = np.empty(size, np.float32), np.zeros(size, np.float32)
    for n in range(x.shape[0]):
        _gather_bfloat16(x[n], row, floor)
        bad[n] = not prune_any_row(row, pruned, draws, streams[n], site, scratch, proposals)
        _scatter_bfloat16(pruned, out[n])


@vector_kernel
def _gather(x: Any, row: Any, floor: Any) -> None:
    """Write the map `x` (H·W, C) as a row (C·H·W,), raised to `floor` where it is below; NaN stays."""
    full_width()
    for k in range(x.shape[1]):
        for i in range(x.shape[0]):
            value = x[i, k]
            row[k * x.shape[0] + i] = floor if value < floor else value


@vector_kernel
def scatter(row: Any, x: Any) -> None:
    """Write a row (C·H·W,) as the map `x` (H·W, C)."""
    full_width()
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            x[i, k] = row[k * x.shape[0] + i]


@vector_kernel
def _gather_bfloat16(x: Any, row: Any, floor: Any) -> None:
    full_width()
    for k in range(x.shape[1]):
        for i in range(x.shape[0]):
            value = widen(x[i, k])
            row[k * x.shape[0] + i] = floor if value < floor else value


@vector_kernel
def _scatter_bfloat16(row: Any, x: Any) -> None:
    full_width()
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            x[i, k] = narrow(row[k * x.shape[0] + i])

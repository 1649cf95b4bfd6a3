"""Rows that are not contiguous float32: bfloat16, and maps whose channels are innermost in memory.

A row becomes contiguous float32 in the order (C, H, W) while it is in the cache, so that draws do not depend on how a
map is stored.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from saplab.pruning.cpu import lift, prune_any_row, scratch_for
from saplab.rng.compiled import scalar_kernel
from saplab.rng.simd import convert_row, full_width
from saplab.rng.tiles import NO_FLOOR, transpose


def as_array(t: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor's memory as an array; of bfloat16, which NumPy does not know, the bits (uint16)."""
    return t.view(torch.int16).numpy().view(np.uint16) if t.dtype == torch.bfloat16 else t.numpy()


def dense_format(h: Tensor) -> torch.memory_format:
    """Return the format, channels last or contiguous, in which the maps are stored or are to be copied."""
    in_channels_last = h.dim() == 4 and h.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if in_channels_last and not h.is_contiguous() else torch.contiguous_format


@scalar_kernel
def prune_bfloat16_rows(x: Any, out: Any, streams: Any, site: int, draws: float, bad: Any, floor: Any) -> None:
    """Do what `prune_rows` does to rows (N, a) of bfloat16 as bits (uint16)."""
    full_width()
    scratch, proposals = scratch_for(x.shape[1])
    wide, pruned = np.empty(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    for n in range(x.shape[0]):
        lift(x[n], wide, floor)
        bad[n] = not prune_any_row(wide, pruned, draws, streams[n], site, scratch, proposals, x[n + 1 : n + 2])
        convert_row(pruned, out[n])


@scalar_kernel
def prune_channels_last(x: Any, out: Any, streams: Any, site: int, draws: float, bad: Any, floor: Any) -> None:
    """Do what `prune_rows` does to maps (N, H·W, C)."""
    full_width()
    size = x.shape[1] * x.shape[2]
    scratch, proposals = scratch_for(size)
    row, pruned = np.empty(size, np.float32), np.zeros(size, np.float32)
    rows, kept = row.reshape(x.shape[2], x.shape[1]), pruned.reshape(x.shape[2], x.shape[1])  # as (C, H·W)
    flat = x.reshape(x.shape[0], size)
    for n in range(x.shape[0]):
        transpose(x[n], rows, floor)
        bad[n] = not prune_any_row(row, pruned, draws, streams[n], site, scratch, proposals, flat[n + 1 : n + 2])
        transpose(kept, out[n], NO_FLOOR)

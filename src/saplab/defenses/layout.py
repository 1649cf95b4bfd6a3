"""Noise stored as the maps are that it is for: operations on two layouts at once are slow."""

import torch
from torch import Tensor

from saplab.pruning.layouts import scatter_rows
from saplab.pruning.threads import over_rows


def stored_as(noise: Tensor, h: Tensor) -> Tensor:
    """Give float32 noise (N, C·H·W), in the order (C, H, W), in the shape of the maps `h` and as they lie in memory.

    A number keeps its place in a map, however that is stored. In a compiled network the compiler sees to layouts.
    """
    if torch.compiler.is_compiling() or not h.is_cpu or not _innermost_channels(h):
        return noise.view(h.shape)
    return torch.ops.saplab.channels_last(noise, list(h.shape))  # type: ignore[no-any-return]


def _innermost_channels(h: Tensor) -> bool:
    return (
        h.dim() == 4 and h.numel() > 0 and h.is_contiguous(memory_format=torch.channels_last) and not h.is_contiguous()
    )


@torch.library.custom_op("saplab::channels_last", mutates_args=(), device_types="cpu")
def _channels_last(rows: Tensor, shape: list[int]) -> Tensor:
    out = torch.empty(shape, memory_format=torch.channels_last)
    values, maps = rows.contiguous().numpy(), out.permute(0, 2, 3, 1).flatten(1, 2).numpy()
    over_rows(lambda a, b: scatter_rows(values[a:b], maps[a:b]), *values.shape)
    return out


@_channels_last.register_fake
def _(rows: Tensor, shape: list[int]) -> Tensor:
    return rows.new_empty(shape).to(memory_format=torch.channels_last)

"""What several networks are built of: normalisation as a layer, stages of residual blocks; and other layers put in."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
L = TypeVar("L", bound=nn.Module)


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel.

    Both belong to the architecture: they are buffers that move with the module but are not in its state_dict.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"`std` must have as many values as `mean` ({len(mean)}), got {len(std)}")
        if min(std) <= 0:
            raise ValueError(f"`std` must be > 0, got {std}")
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise [0, 1] images (N, C, H, W)."""
        return (images - self.mean) / self.std


def stage(
    block: Callable[[int, int, int], nn.Module], width_in: int, width: int, stride: int, blocks: int
) -> nn.Sequential:
    """Build a stage of blocks, each made from (width in, width, stride); only the first changes width and size."""
    return nn.Sequential(block(width_in, width, stride), *(block(width, width, 1) for _ in range(blocks - 1)))


def replace_layers(model: M, kind: type[L], make: Callable[[L], nn.Module]) -> M:
    """Replace every layer of a kind by what `make` makes of it, in place, and return the network."""
    found = [(parent, *child) for parent in model.modules() for child in parent.named_children()]
    for parent, name, layer in found:
        if isinstance(layer, kind):
            parent.add_module(name, make(layer))
    return model

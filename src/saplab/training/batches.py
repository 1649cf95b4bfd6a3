"""An epoch's augmented batches, made on the device that trains."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saplab.data.dataset import Records
from saplab.training.augment import Shifts, draw_shifts, shuffle
from saplab.training.place import Place
from saplab.training.recipes import Recipe


@dataclass(frozen=True)
class Batch:
    """Augmented images uint8 (B, C, H, W), labels int64 (B,), and each image's index in its data set (B,)."""

    pixels: Tensor
    labels: Tensor
    examples: Tensor


class Batches:
    """This process's part of each batch. The training set lies whole on the device; on a CPU it is not copied."""

    def __init__(self, data: Records, recipe: Recipe, place: Place) -> None:
        self._recipe, self._place = recipe, place
        self._images = torch.from_numpy(data.images).to(place.device).permute(0, 2, 3, 1)
        self._labels = torch.from_numpy(data.labels).to(place.device)
        self._examples = torch.from_numpy(data.indices)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield every full batch of an epoch (from 0)."""
        count, size, place = len(self._labels), self._recipe.batch, self._place
        shifts = draw_shifts(seed, epoch, count, self._recipe.pad, self._recipe.flip)
        order = shuffle(seed, epoch, count)
        for start in range(0, count - size + 1, size):
            positions = order[start : start + size][place.rank :: place.world]
            chosen = torch.from_numpy(positions)
            pixels = self._cropped(chosen.to(place.device), shifts[positions])
            yield Batch(pixels, self._labels[chosen.to(place.device)], self._examples[chosen])

    def _cropped(self, chosen: Tensor, shifts: Shifts) -> Tensor:
        """Return the crops of zero-padded images, (B, C, H, W) stored channels last, mirrored where that was drawn."""
        height, width = self._images.shape[1:3]
        rows, columns, mirrored = (
            torch.from_numpy(drawn).to(chosen.device)[:, None]
            for drawn in (shifts.rows, shifts.columns, shifts.mirrored)
        )
        y = rows - self._recipe.pad + torch.arange(height, device=chosen.device)
        x = columns - self._recipe.pad + torch.arange(width, device=chosen.device)
        x = torch.where(mirrored, x.flip(1), x)
        inside = ((y >= 0) & (y < height))[:, :, None, None] & ((x >= 0) & (x < width))[:, None, :, None]
        near = chosen[:, None, None], y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None, :]
        return (self._images[near] * inside).permute(0, 3, 1, 2)


def network_input(pixels: Tensor) -> Tensor:
    """Turn uint8 (B, C, H, W) into float32 in [0, 1], stored channels last, which convolutions prefer."""
    return pixels.float().div_(255).contiguous(memory_format=torch.channels_last)

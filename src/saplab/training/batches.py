"""An epoch's augmented batches: made in the background on a CPU, or on the device that trains.

Both ways give the same bits: crops and flips move whole pixels, and the draws are those of `saplab.training.augment`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saplab.data.cifar10 import as_images
from saplab.data.dataset import Records
from saplab.training.augment import Shifts, crop_and_flip, draw_shifts, shuffle
from saplab.training.place import Place
from saplab.training.recipes import Recipe


@dataclass(frozen=True)
class Batch:
    """Augmented images uint8 (B, C, H, W), labels int64 (B,), and each image's index in its data set (B,)."""

    pixels: Tensor
    labels: Tensor
    examples: Tensor


class OnHost:
    """Batches of images in the host's memory; a background thread makes each while the network works on the last."""

    def __init__(self, data: Records, recipe: Recipe, place: Place) -> None:
        self._data, self._recipe, self._place = data, recipe, place

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield every full batch of an epoch (from 0)."""
        batches = self._batches(seed, epoch)
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = pool.submit(next, batches, None)
                yield batch

    def _batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        data, pad = self._data, self._recipe.pad
        shifts = draw_shifts(seed, epoch, len(data), pad, self._recipe.flip)
        for chosen in _choices(len(data), self._recipe.batch, self._place, seed, epoch):
            pixels = crop_and_flip(data.images[chosen], shifts[chosen], pad)
            yield Batch(*map(torch.from_numpy, (pixels, data.labels[chosen], data.indices[chosen])))


class OnDevice:
    """Batches of images that lie padded on the device, where each batch is gathered, stored channels last."""

    def __init__(self, data: Records, recipe: Recipe, place: Place) -> None:
        self._recipe, self._place, self._device = recipe, place, place.device
        self._height, self._width = data.images.shape[2:]
        around = ((0, 0), (recipe.pad, recipe.pad), (recipe.pad, recipe.pad), (0, 0))
        self._padded = torch.from_numpy(np.pad(data.images.transpose(0, 2, 3, 1), around)).to(self._device)
        self._labels = torch.from_numpy(data.labels).to(self._device)
        self._examples = torch.from_numpy(data.indices)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield every full batch of an epoch (from 0)."""
        count = len(self._labels)
        shifts = draw_shifts(seed, epoch, count, self._recipe.pad, self._recipe.flip)
        for chosen in _choices(count, self._recipe.batch, self._place, seed, epoch):
            numbers = torch.from_numpy(chosen)
            on_device = numbers.to(self._device)
            yield Batch(self._crop(on_device, shifts[chosen]), self._labels[on_device], self._examples[numbers])

    def _crop(self, chosen: Tensor, shifts: Shifts) -> Tensor:
        """Do what `crop_and_flip` does; uint8 (B, C, H, W)."""
        rows, columns, mirrored = (
            torch.from_numpy(a).to(self._device) for a in (shifts.rows, shifts.columns, shifts.mirrored)
        )
        y = rows[:, None] + torch.arange(self._height, device=self._device)
        x = columns[:, None] + torch.arange(self._width, device=self._device)
        x = torch.where(mirrored[:, None], x.flip(1), x)
        return self._padded[chosen[:, None, None], y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def network_input(pixels: np.ndarray | Tensor) -> Tensor:
    """Turn uint8 (B, C, H, W) into float32 in [0, 1], stored channels last, which convolutions prefer."""
    images = pixels.float().div_(255) if isinstance(pixels, Tensor) else as_images(pixels)
    return images.contiguous(memory_format=torch.channels_last)


def _choices(count: int, batch: int, place: Place, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield the positions of this process's images in each full batch."""
    order = shuffle(seed, epoch, count)
    for start in range(0, count - batch + 1, batch):
        yield order[start : start + batch][place.rank :: place.world]

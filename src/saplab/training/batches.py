"""An epoch's augmented batches, made in the background."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from saplab.data.cifar10 import Records, as_images
from saplab.training.augment import crop_and_flip, draw_shifts, shuffle, take
from saplab.training.recipes import Recipe

Batch = tuple[np.ndarray, np.ndarray]


def epoch_batches(data: Records, recipe: Recipe, seed: int, epoch: int) -> Iterator[Batch]:
    """Give every full batch of an epoch: augmented images uint8 (B, C, H, W) with labels (B,).

    A background thread makes each batch while whoever iterates works on the one before.
    """
    return _prefetched(_batches(data, recipe, seed, epoch))


def network_input(pixels: np.ndarray) -> torch.Tensor:
    """Turn uint8 (B, C, H, W) into float32 in [0, 1], stored channels last, which convolutions on CPUs prefer."""
    return as_images(pixels).contiguous(memory_format=torch.channels_last)


def _batches(data: Records, recipe: Recipe, seed: int, epoch: int) -> Iterator[Batch]:
    order = shuffle(seed, epoch, len(data))
    shifts = draw_shifts(seed, epoch, len(data), recipe.pad, recipe.flip)
    for start in range(0, len(data) - recipe.batch + 1, recipe.batch):
        chosen = order[start : start + recipe.batch]
        yield crop_and_flip(data.images[chosen], take(shifts, chosen), recipe.pad), data.labels[chosen]


def _prefetched(batches: Iterator[Batch]) -> Iterator[Batch]:
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch

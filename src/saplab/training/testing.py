"""Accuracy between two epochs: on test images, and on held-out training images, clean and under attack."""

from collections.abc import Callable
from itertools import count
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from saplab.data.dataset import Records
from saplab.system.precision import computing_in
from saplab.training.augment import held_out_positions
from saplab.training.batches import network_input
from saplab.training.draws import seeded
from saplab.training.objectives import Projected
from saplab.training.place import Place
from saplab.training.steps import INNER, Networks, Step

BATCH: Final = 500  # images at a time


def hold_out(data: Records, count: int) -> tuple[Records, Records | None]:
    """Split a training set into the images to train on, in order, and `count` held-out ones, None where that is 0.

    These are chosen at random by a rule that knows only the size of the set.
    """
    if count == 0:
        return data, None
    out = np.zeros(len(data), dtype=bool)
    out[held_out_positions(len(data), count)] = True
    return data.chosen(~out), data.chosen(out)


def count_correct(model: nn.Module, records: Records, precision: str = "float32", place: Place | None = None) -> int:
    """Count the images that a network in eval mode classifies correctly."""
    place = place or Place()

    def logits(images: Tensor, labels: Tensor, examples: Tensor) -> Tensor:
        with torch.no_grad(), computing_in(precision, place.device):
            return model(images)  # type: ignore[no-any-return]

    return count_by(logits, records, place)


def count_robust(networks: Networks, records: Records, attack: Projected) -> int:
    """Count the images that one pass of the network as trained classifies correctly, under an attack on itself."""

    numbers = count()

    def logits(images: Tensor, labels: Tensor, examples: Tensor) -> Tensor:
        step = Step(networks, images, labels, examples, number=next(numbers))  # draws of its own for each batch
        changed = attack.changed(step)
        with torch.no_grad():
            return step.attacked(changed, INNER + attack.steps)

    return count_by(logits, records, networks.place)


def count_by(logits: Callable[[Tensor, Tensor, Tensor], Tensor], records: Records, place: Place) -> int:
    """Count the images whose greatest logit is that of their label, over all processes.

    `logits` gets images (B, C, H, W) in [0, 1], their labels (B,) and their indices in the data set (B,). What it draws
    from PyTorch's generators is the same in every call.
    """
    mine = records.chosen(slice(place.rank, None, place.world))
    correct = torch.zeros((), dtype=torch.int64, device=place.device)
    for start in range(0, len(mine), BATCH):
        part = mine.chosen(slice(start, start + BATCH))
        pixels, labels = (torch.from_numpy(a).to(place.device) for a in (part.images, part.labels))
        with seeded(start * place.world + place.rank, place.device):
            found = logits(network_input(pixels), labels, torch.from_numpy(part.indices))
        correct += (found.argmax(dim=1) == labels).sum()
    return int(place.total(correct))

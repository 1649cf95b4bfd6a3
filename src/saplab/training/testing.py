"""Accuracy between two epochs: on test images, and on held-out training images, clean and under attack."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from saplab.data.dataset import Records
from saplab.system.precision import computing_in
from saplab.training.augment import held_out_positions
from saplab.training.batches import network_input
from saplab.training.objectives import INNER, Projected
from saplab.training.place import Place
from saplab.training.steps import BatchStep, Networks

BATCH = 500


def hold_out(data: Records, count: int) -> tuple[Records, Records | None]:
    """Take `count` images out of a training set, at random by a rule that knows the set's size alone.

    Returns:
        the images to train on, in the order they came in, and the held-out ones; None where `count` is 0.
    """
    if count == 0:
        return data, None
    out = np.zeros(len(data), dtype=bool)
    out[held_out_positions(len(data), count)] = True
    return data.chosen(~out), data.chosen(out)


@torch.no_grad()
def count_correct(
    model: nn.Module, records: Records, precision: str = "float32", batch: int = BATCH, place: Place | None = None
) -> int:
    """Count the images that a network in eval mode gets right; float32 unless told ``bfloat16``."""
    place = place or Place()
    mine = records.chosen(slice(place.share.rank, None, place.share.world))
    correct = torch.zeros((), dtype=torch.int64, device=place.device)
    for images, labels, _ in _batches(mine, batch, place):
        with computing_in(precision, place.device):
            logits = model(images)
        correct += (logits.argmax(dim=1) == labels).sum()
    return int(place.total(correct))


def count_robust(networks: Networks, records: Records, attack: Projected) -> int:
    """Count the images that the network as trained, one pass of it, gets right under an attack against itself."""
    place = networks.place
    mine = records.chosen(slice(place.share.rank, None, place.share.world))
    correct = torch.zeros((), dtype=torch.int64, device=place.device)
    for images, labels, examples in _batches(mine, BATCH, place):
        step = BatchStep(networks, images, labels, examples, number=0)
        changed = attack.changed(step)
        with torch.no_grad():
            logits = step.attacked(changed, INNER + attack.steps)
        correct += (logits.argmax(dim=1) == labels).sum()
    return int(place.total(correct))


def _batches(records: Records, batch: int, place: Place) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give images, labels and numbers, a batch at a time."""
    for start in range(0, len(records), batch):
        part = records.chosen(slice(start, start + batch))
        pixels, labels = (torch.from_numpy(a).to(place.device) for a in (part.images, part.labels))
        yield network_input(pixels), labels, torch.from_numpy(part.indices)

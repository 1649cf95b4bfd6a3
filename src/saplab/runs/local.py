"""The engine that computes cells in this process, one after the other."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from saplab import noise
from saplab.attacks import eps_of
from saplab.attacks.ball import check_labels, check_request
from saplab.data.dataset import Dataset
from saplab.defenses import defend, predict_with_votes
from saplab.defenses.prediction import logits
from saplab.runs.machine import made
from saplab.runs.store import CellResult, Store
from saplab.studies import Cell, Network
from saplab.studies.specs import attack_of, parse_defenses

PRECISIONS: Final = {"float32": None, "bfloat16": torch.bfloat16}

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Inputs:
    """What cells speak of by name: plain networks by (model, digest), and the data set."""

    models: Mapping[tuple[str, str], nn.Module]
    data: Dataset

    def network(self, network: Network) -> nn.Module:
        """Give the network, defended as the cell says."""
        model = self.models[network.model, network.digest]
        defenses = parse_defenses(network.defense)
        return defend(model, *defenses, sites=network.sites or None) if defenses else model


def work_of(cell: Cell) -> int:
    """Give the number of ticks that computing the cell takes: one for the attack's direction, one a strength."""
    return 1 + len(cell.strengths)


def compute(cell: Cell, inputs: Inputs, tick: Tick = lambda n: None) -> CellResult:
    """Compute one cell: attack its examples at each strength, and predict them with fresh passes.

    Defender and adversary draw from separate streams of the cell's seed; an example's draws depend on its number in
    the data set, so that cells of other sizes see the same.

    Args:
        cell: what to compute.
        inputs: its networks and data.
        tick: called with 1 as each of `work_of(cell)` parts ends.

    Raises:
        ValueError: see `saplab.defend`, the attacks and `saplab.predict`.
    """
    begin = time.perf_counter()
    examples = slice(cell.start, cell.stop)
    images, labels, numbers = (t[examples] for t in (inputs.data.images, inputs.data.labels, inputs.data.indices))
    defender, adversary = inputs.network(cell.defender), inputs.network(cell.adversary)
    size = len(images)
    probs, votes = [], []
    with _precision(cell.precision):
        eps = [eps_of(strength) for strength in cell.strengths]
        curve = attack_of(cell.attack).curve(adversary, images, labels, eps, cell.seed, examples=numbers)
        tick(1)
        for adversarial in curve:
            prediction = predict_with_votes(
                defender, adversarial, cell.passes, cell.seed, examples=numbers, batch_size=size
            )
            probs.append(prediction.probs.numpy())
            votes.append(prediction.votes.numpy())
            tick(1)
    seconds = time.perf_counter() - begin
    return CellResult(np.stack(probs), np.stack(votes), _int64(labels), _int64(numbers), made(seconds))


def rehearse(cells: Iterable[Cell], inputs: Inputs) -> None:
    """Run each network once on one image, so that what cannot be computed is refused before a folder is made.

    Raises:
        ValueError: a network without sites or logits, labels it has no class for, images outside [0, 1], a bad seed.
    """
    cells = tuple(cells)
    images, labels = inputs.data.images, inputs.data.labels
    check_request(images, labels, ())
    for seed, passes, precision in {(cell.seed, cell.passes, cell.precision) for cell in cells}:
        noise.stream_key(seed)
        if passes < 1:
            raise ValueError(f"`passes` must be >= 1, got {passes}")
        with _precision(precision):
            pass
    for network in {network for cell in cells for network in (cell.defender, cell.adversary)}:
        with torch.no_grad():
            classes = logits(inputs.network(network), images[:1]).shape[1]
        check_labels(labels, classes)


def run(store: Store, inputs: Inputs, tick: Tick = lambda n: None) -> None:
    """Compute and save every cell of the store's request that it does not hold yet; a damaged one counts as not held.

    Killed at any moment, a second call goes on with the first cell that is missing.
    """
    for cell in store.missing():
        store.save(cell, compute(cell, inputs, tick))


def _int64(values: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return values.numpy().astype(np.int64)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    if name not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {name!r}")
    dtype = PRECISIONS[name]
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        yield

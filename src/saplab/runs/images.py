"""Compute cells of images: attack their examples at each strength, and predict what comes of it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from torch import Tensor, nn

from saplab.attacks import FGSM, eps_of
from saplab.attacks.ball import check_labels, check_request, project
from saplab.attacks.batteries import attack_of
from saplab.data.dataset import Dataset
from saplab.defenses import defend, predict_with_votes
from saplab.defenses.prediction import Prediction, logits
from saplab.defenses.specs import parse_defenses
from saplab.rng.streams import stream_key
from saplab.runs.cell import NUMERICS, Cell, Network
from saplab.runs.engines.base import Tick
from saplab.runs.engines.parcel import shared
from saplab.runs.groups import Group, crafting_cost, groups, passes_of, work_of
from saplab.runs.results import DTYPES, PICTURED, CellResult
from saplab.system.machine import made
from saplab.system.precision import computing_in

_CLEAN_BYTES: Final = 1 << 28  # of predictions of untouched images that are kept


@dataclass(frozen=True)
class Inputs:
    """What cells of images speak of by name: plain networks by (model, digest), and the data set.

    It is a `saplab.runs.engines.base.Workload`; its unit of work is one pass of one image through a network.

    Args:
        models, data: the networks and the images.
        device: of PyTorch, where the models are and the images go.
        clean: predictions of untouched images, the same for every attack; the last ones made, up to 256 MiB.
    """

    numerics: ClassVar[int] = NUMERICS
    models: Mapping[tuple[str, str], nn.Module]
    data: Dataset
    device: str = "cpu"
    clean: dict[tuple[Any, ...], Prediction] = field(default_factory=dict, repr=False)

    def network(self, network: Network) -> nn.Module:
        """Give the network, defended as the cell says."""
        model = self.models[network.model, network.digest]
        defenses = parse_defenses(network.defense)
        return defend(model, *defenses, sites=network.sites or None) if defenses else model

    def groups(self, cells: Iterable[Cell]) -> Sequence[Group]:
        """Gather the cells that share their adversarial images."""
        return groups(cells)

    def work(self, group: Group) -> int:
        """Give the work of a group in passes."""
        return work_of(group)

    def compute(self, group: Group, tick: Tick = lambda n: None) -> list[CellResult]:
        """Compute the cells of a group; see `compute`."""
        return compute(group, self, tick)

    def beside(self) -> Mapping[str, Any]:
        """Give the data set as arrays."""
        tensors = {name: getattr(self.data, name).numpy() for name in ("images", "labels", "indices")}
        return {"name": self.data.name, "classes": self.data.classes, **tensors}

    @classmethod
    def unpacked(cls, models: Mapping[tuple[str, str], nn.Module], beside: Mapping[str, Any], device: str) -> Self:
        """Make the data set of what `beside` gave."""
        tensors = {name: shared(beside[name]) for name in ("images", "labels", "indices")}
        return cls(models, Dataset(beside["name"], classes=beside["classes"], **tensors), device)


@dataclass(frozen=True)
class _Shard:
    """The examples of a group: images (N, C, H, W), labels (N,) and numbers in the data set (N,)."""

    images: Tensor
    labels: Tensor
    numbers: Tensor


@dataclass(frozen=True)
class _Craft:
    """One attack's images, λ > 0 in order, and what its gradient was like (N,); NaN where it has none."""

    images: Iterator[Tensor]
    half_cosine: Tensor
    gradient_norm: Tensor


def compute(group: Group, inputs: Inputs, tick: Tick = lambda n: None) -> list[CellResult]:
    """Compute the cells of a group: attack their examples at each strength, and predict them with fresh passes.

    Defender and adversary draw from separate streams of the cell's seed; an example's draws depend on its number in
    the data set, so that cells of other sizes see the same.

    Args:
        group: cells that share their adversarial images.
        inputs: their networks and data.
        tick: called with the work done since the last call; `work_of(group)` in all.

    Raises:
        ValueError: see `saplab.defend`, the attacks and `saplab.predict`.
    """
    begin = time.perf_counter()
    shard = _shard(group[0], inputs)
    results: dict[str, CellResult] = {}
    with computing_in(group[0].precision, inputs.device):
        for cells, craft, work in _crafts(group, inputs, shard):
            predictions, pictures = _predictions(cells, craft, inputs, shard, work, tick)
            results.update({name: _result(found, craft, shard, pictures) for name, found in predictions.items()})
    share = (time.perf_counter() - begin) / len(group)
    record = made(share)
    return [replace(results[cell.digest], made=record) for cell in group]


def _shard(cell: Cell, inputs: Inputs) -> _Shard:
    examples, data = slice(cell.start, cell.stop), inputs.data
    images, labels = (tensor[examples].to(inputs.device) for tensor in (data.images, data.labels))
    return _Shard(images, labels, data.indices[examples])


def _crafts(group: Group, inputs: Inputs, shard: _Shard) -> Iterator[tuple[Group, _Craft, int]]:
    """Give each attack of the group with the cells that it is for, and its work for one image."""
    adversary = inputs.network(group[0].adversary)
    eps = [eps_of(strength) for strength in group[0].strengths if strength > 0]
    attack = attack_of(group[0].attack)
    if not eps or not isinstance(attack, FGSM) or attack.gradient.average != "loss":
        curve = attack.curve(adversary, shard.images, shard.labels, eps, group[0].seed, examples=shard.numbers)
        nothing = torch.full((len(shard.images),), torch.nan)
        yield group, _Craft(iter(curve), nothing, nothing), passes_of(crafting_cost(group[0]))
        return
    budgets = sorted({cell.attack["samples"] for cell in group})
    estimates = attack.gradient.nested(
        adversary, shard.images, shard.labels, budgets, group[0].seed, examples=shard.numbers
    )
    before = 0
    for budget, estimate in zip(budgets, estimates, strict=True):
        cells = tuple(cell for cell in group if cell.attack["samples"] == budget)
        sign = estimate.gradient.sign()
        moved = (project(shard.images + e * sign, shard.images, e) for e in eps)
        work = passes_of(crafting_cost(cells[0]))
        yield cells, _Craft(moved, estimate.half_cosine, estimate.gradient.flatten(1).norm(dim=1)), work - before
        before = work


def _predictions(
    cells: Group, craft: _Craft, inputs: Inputs, shard: _Shard, work: int, tick: Tick
) -> tuple[dict[str, list[Prediction]], list[Tensor]]:
    """Predict a craft's images with each cell's defender, strength by strength; by the cell's digest.

    The first images come with them, for people to look at.
    """
    size, strengths = len(shard.images), cells[0].strengths
    defenders = [inputs.network(cell.defender) for cell in cells]
    found: dict[str, list[Prediction]] = {cell.digest: [] for cell in cells}
    pictures = []
    for strength, share in zip(strengths, _shares(work * size, strengths), strict=True):
        adversarial = next(craft.images) if strength > 0 else None
        pictures.append(_pictures(shard.images if adversarial is None else adversarial, cells[0]))
        tick(share)
        for cell, defender in zip(cells, defenders, strict=True):
            found[cell.digest].append(_predict(cell, defender, adversarial, inputs, shard))
            tick(cell.passes * size)
    return found, pictures


def _pictures(images: Tensor, cell: Cell) -> Tensor:
    """Give the first examples' images as bytes, (P, H, W, C), where the cell begins the data set."""
    first = images[: PICTURED if cell.start == 0 else 0]
    return (first * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def _shares(work: int, strengths: Sequence[float]) -> list[int]:
    """Split an attack's work over its strengths above 0, so that nothing is lost to rounding."""
    count = sum(strength > 0 for strength in strengths)
    done = [work * k // max(count, 1) for k in range(count + 1)]
    steps = iter([b - a for a, b in pairwise(done)])
    return [next(steps) if strength > 0 else 0 for strength in strengths]


def _predict(cell: Cell, defender: nn.Module, adversarial: Tensor | None, inputs: Inputs, shard: _Shard) -> Prediction:
    """Predict with fresh passes; untouched images once for all attacks."""
    key = (cell.defender, cell.passes, cell.seed, cell.start, cell.stop, cell.precision)
    if adversarial is None and key in inputs.clean:
        return inputs.clean[key]
    images = shard.images if adversarial is None else adversarial
    found = predict_with_votes(defender, images, cell.passes, cell.seed, examples=shard.numbers, batch_size=len(images))
    if adversarial is None:
        _keep(inputs.clean, key, found)
    return found


def _keep(clean: dict[tuple[Any, ...], Prediction], key: tuple[Any, ...], found: Prediction) -> None:
    """Keep a prediction, and let the oldest ones go where there are too many."""
    most = max(1, _CLEAN_BYTES // sum(tensor.nbytes for tensor in vars(found).values()))
    while len(clean) >= most:
        del clean[next(iter(clean))]
    clean[key] = found


def _result(predictions: Sequence[Prediction], craft: _Craft, shard: _Shard, pictures: Sequence[Tensor]) -> CellResult:
    arrays: dict[str, Any] = {
        **{name: np.stack([getattr(p, name).numpy() for p in predictions]) for name in vars(predictions[0])},
        **{"labels": shard.labels.cpu().numpy(), "examples": shard.numbers.numpy()},
        **{"half_cosine": craft.half_cosine.cpu().numpy(), "gradient_norm": craft.gradient_norm.cpu().numpy()},
        "pictures": torch.stack(list(pictures)).numpy(),
    }
    return CellResult(**{name: array.astype(DTYPES[name]) for name, array in arrays.items()}, made={})


def rehearse(cells: Iterable[Cell], inputs: Inputs) -> None:
    """Run each network once on one image, so that what cannot be computed is refused before a folder is made.

    Raises:
        ValueError: a network without sites or logits, labels it has no class for, images outside [0, 1], a bad seed.
    """
    cells = tuple(cells)
    images, labels = inputs.data.images, inputs.data.labels
    check_request(images, labels, ())
    for seed, passes, precision in {(cell.seed, cell.passes, cell.precision) for cell in cells}:
        stream_key(seed)
        if passes < 1:
            raise ValueError(f"`passes` must be >= 1, got {passes}")
        with computing_in(precision, inputs.device):
            pass
    for network in {network for cell in cells for network in (cell.defender, cell.adversary)}:
        with torch.no_grad():
            classes = logits(inputs.network(network), images[:1].to(inputs.device)).shape[1]
        check_labels(labels, classes)

"""Compute cells of images: attack their examples at each radius, and predict what comes of it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Final, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from saplab.attacks import Attack, Craft, Problem
from saplab.attacks.flatness import Flatness
from saplab.attacks.threat import check_labels
from saplab.attacks.witness import witnessed
from saplab.data.dataset import Dataset
from saplab.defenses import Prediction, predict_with_votes
from saplab.defenses.drawing import drawing
from saplab.defenses.prediction import for_network, logits, of_classes
from saplab.defenses.stage import ran, same
from saplab.rng.streams import pass_streams, stream_key
from saplab.runs.cell import Group, ImageCell, Network
from saplab.runs.engines.base import Models, Tick
from saplab.runs.engines.parcel import shared
from saplab.runs.networks import network_of
from saplab.runs.results import PICTURED, ImageResult
from saplab.system.counts import check_count
from saplab.system.machine import made
from saplab.system.precision import computing_in

_CLEAN_BYTES: Final = 1 << 28  # of predictions of untouched images that are kept

_FEW: Final = 3  # images by which it is noticed that a network has changed
_CHANGED: Final = (
    "the network has changed while it was evaluated: for the same images and draws it returns something else than at"
    " first; look for what it counts, schedules or keeps from call to call"
)

_ATTACKED: Final = (
    "the network answers otherwise where it is attacked than where it is judged: for the same images and draws, at"
    " points that an attack went through, a prediction returns something else; look for what depends on gradients, on"
    " the size of a batch, on pixel values between the usual 255 steps or on the number of calls"
)

_Cells = Sequence[ImageCell]


@dataclass(frozen=True)
class Images:
    """What cells of images speak of by name: networks and the data set; a `saplab.runs.engines.base.Workload`.

    Attributes:
        models: networks without defences by (model, digest), on the device, as `saplab.defenses.stochastic` runs them.
        data: the images.
        device: of PyTorch.
        clean: predictions of untouched images, the same for every attack; the last ones made, up to 256 MiB.
        first: what each network returned for a few images when it was first run here.
    """

    numerics: ClassVar[int] = ImageCell.numerics
    models: Models
    data: Dataset
    device: str = "cpu"
    clean: dict[tuple[Any, ...], Prediction] = field(default_factory=dict, repr=False)
    first: dict[tuple[Network, str], Tensor] = field(default_factory=dict, init=False, repr=False)

    def compute(self, group: Group, tick: Tick = lambda n: None) -> list[ImageResult]:
        """Compute the cells of a group: attack their examples at each radius, and predict them with fresh passes.

        Defender and adversary draw from separate streams of the cell's seed; an example's draws depend on its number in
        the data set, so that cells of other sizes see the same.

        Raises:
            ValueError: a network that has come to return something else for the same images and draws than at first,
                or that returns something else where it is attacked.
        """
        begin, busy, cells = time.perf_counter(), time.process_time(), cast(_Cells, group)
        first = cells[0]
        first.check_device(self.device)
        examples = slice(first.start, first.stop)
        images, labels = (tensor[examples].to(self.device) for tensor in (self.data.images, self.data.labels))
        shard = replace(self.data, images=images, labels=labels, indices=self.data.indices[examples])
        results: dict[str, ImageResult] = {}
        with computing_in(first.precision, self.device):
            self._check_unchanged(cells)
            with witnessed() as witness:
                for some, craft, work in _crafts(cells, self, shard):
                    predictions, pictures = _predictions(some, craft, self, shard, work, tick)
                    results |= {
                        name: _result(found, craft, shard, pictures, first.eps) for name, found in predictions.items()
                    }
            self._check_unchanged(cells)
            if not witness.agrees(images, shard.indices):
                raise ValueError(_ATTACKED)
        spent = (time.perf_counter() - begin, time.process_time() - busy)
        record = made(*(seconds / len(group) for seconds in spent))
        return [replace(results[cell.digest], made=record) for cell in cells]

    def beside(self) -> Mapping[str, Any]:
        """Return the data set as arrays."""
        tensors = {name: getattr(self.data, name).numpy() for name in ("images", "labels", "indices")}
        return {"name": self.data.name, "classes": self.data.classes, **tensors}

    @classmethod
    def unpacked(cls, models: Models, beside: Mapping[str, Any], device: str) -> Self:
        """Return the workload again where it has travelled to."""
        images, labels, indices = (shared(beside[name]) for name in ("images", "labels", "indices"))
        return cls(models, Dataset(beside["name"], images, labels, indices, beside["classes"]), device)

    def rehearse(self, cells: Iterable[ImageCell]) -> None:
        """Run each network once on one image, to refuse what cannot be computed before long work begins.

        That is, by a ValueError: a network without sites or logits, labels it has no class for, images outside the
        bounds, a bad seed, a radius wider than the bounds, an attack that the number of classes does not suit.
        """
        cells = tuple(cells)
        for threat in {cell.threat for cell in cells}:
            radii = {eps for cell in cells if cell.threat == threat for eps in cell.eps}
            threat.check(self.data.images, self.data.labels, sorted(radii))
        for seed, passes in {(cell.seed, cell.passes) for cell in cells}:
            stream_key(seed)
            check_count("passes", passes)
        for precision in {cell.precision for cell in cells}:
            with computing_in(precision, self.device):
                pass
        one = self.data.images[:1].to(self.device)
        for network in {network for cell in cells for network in (cell.defender, cell.adversary)}:
            with torch.no_grad():
                model = network_of(network, self.models)
                classes = of_classes(logits(partial(ran, model), for_network(model, one))).shape[1]
            check_labels(self.data.labels, classes)
            for attack in {cell.attack.spec: cell.attack for cell in cells if cell.adversary == network}.values():
                attack.check_classes(classes)
        for precision in {cell.precision for cell in cells}:
            with computing_in(precision, self.device):
                self._check_unchanged([cell for cell in cells if cell.precision == precision])

    def _check_unchanged(self, cells: Iterable[ImageCell]) -> None:
        """Refuse a network that returns something else for the same images and draws than when it was first run.

        The rehearsal cannot see what begins after many calls: a counter that switches something, a schedule, a cache.
        """
        few = self.data.images[:_FEW].to(self.device)
        streams = pass_streams(stream_key(0), 0, torch.arange(len(few)))
        for network, precision in {(n, cell.precision) for cell in cells for n in (cell.defender, cell.adversary)}:
            if network.grain == "unkeyed":
                continue
            model = network_of(network, self.models)
            with torch.no_grad(), drawing(streams):
                found = logits(model, for_network(model, few)).cpu()
            if not same([self.first.setdefault((network, precision), found)], [found]):
                raise ValueError(_CHANGED)


def _crafts(cells: _Cells, inputs: Images, shard: Dataset) -> Iterator[tuple[_Cells, Craft, int]]:
    """Yield each attack of the group with the cells that it is for, and its work for one image."""
    first, adversary = cells[0], network_of(cells[0].adversary, inputs.models)
    members: list[Attack] = []
    for cell in cells:
        members += [] if cell.attack in members else [cell.attack]
    eps = first.attacked_eps
    problem = Problem.of(
        adversary, shard.images, shard.labels, eps, first.seed, examples=shard.indices, threat=first.threat
    )
    before = 0
    for craft in first.attack.craft(members, problem, eps):
        some = [cell for cell in cells if cell.attack == craft.attack]
        yield some, craft, some[0].crafting - before
        before = some[0].crafting


def _predictions(
    cells: _Cells, craft: Craft, inputs: Images, shard: Dataset, work: int, tick: Tick
) -> tuple[dict[str, list[Prediction]], list[Tensor]]:
    """Predict a craft's images at each radius for each cell, by its digest; return the first images as well."""
    size, attacked, done = len(shard), 0, 0
    defenders = [network_of(cell.defender, inputs.models) for cell in cells]
    found: dict[str, list[Prediction]] = {cell.digest: [] for cell in cells}
    pictures = []
    for eps in cells[0].eps:
        adversarial = next(craft.images) if eps > 0 else None
        pictures.append(_pictures(shard.images if adversarial is None else adversarial, cells[0]))
        attacked += eps > 0
        before, done = done, work * size * attacked // max(len(cells[0].attacked_eps), 1)
        tick(done - before)
        for cell, defender in zip(cells, defenders, strict=True):
            found[cell.digest].append(_predict(cell, defender, adversarial, inputs, shard))
            tick(cell.passes * size)
    return found, pictures


def _pictures(images: Tensor, cell: ImageCell) -> Tensor:
    """Return the first examples' images as bytes, (P, H, W, C), where the cell begins the data set; none of tables."""
    low, high = cell.threat.bounds or (0.0, 1.0)
    drawn = images if images.ndim == 4 and cell.threat.bounds else images.new_empty(0, 1, 1, 1)
    first = (drawn[: PICTURED if cell.start == 0 else 0] - low) / (high - low)
    return (first * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def _predict(
    cell: ImageCell, defender: nn.Module, adversarial: Tensor | None, inputs: Images, shard: Dataset
) -> Prediction:
    """Predict with fresh passes; untouched images once for all attacks."""
    key = (cell.defender, cell.passes, cell.seed, cell.start, cell.stop, cell.precision)
    if adversarial is None and key in inputs.clean:
        return inputs.clean[key]
    images = shard.images if adversarial is None else adversarial
    found = predict_with_votes(defender, images, cell.passes, cell.seed, examples=shard.indices, batch_size=len(images))
    if adversarial is None:
        most = max(1, _CLEAN_BYTES // sum(tensor.nbytes for tensor in vars(found).values()))
        while len(inputs.clean) >= most:
            del inputs.clean[next(iter(inputs.clean))]
        inputs.clean[key] = found
    return found


def _result(
    predictions: Sequence[Prediction], craft: Craft, shard: Dataset, pictures: Sequence[Tensor], eps: Sequence[float]
) -> ImageResult:
    nothing, flatness = (
        torch.full((len(shard),), torch.nan, dtype=torch.float32),
        craft.flatness or Flatness(shard.indices),
    )
    arrays: dict[str, Any] = {
        name: torch.stack([getattr(p, name) for p in predictions]) for name in vars(predictions[0])
    } | {
        "labels": shard.labels,
        "examples": shard.indices,
        "half_cosine": nothing if craft.half_cosine is None else craft.half_cosine,
        "gradient_norm": nothing if craft.gradient_norm is None else craft.gradient_norm,
        "flat_start": flatness.start,
        "flat_end": flatness.at(eps),
        "pictures": torch.stack(list(pictures)),
    }
    layout = ImageResult.layout
    return ImageResult(**{name: np.asarray(a.cpu(), layout[name][0]) for name, a in arrays.items()}, made={})

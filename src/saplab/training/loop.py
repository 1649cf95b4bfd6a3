"""The one loop that trains classifiers: stochastic gradient descent, with a checkpoint after each epoch.

On one machine, with one number of threads, a run is a function of its request (recipe, seed, data): killed at any time
and started again, it ends with the same bits as an uninterrupted run.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from saplab.data.cifar10 import CLASSES
from saplab.data.dataset import Records, digest
from saplab.defenses import SAP, StochasticWeightPruning
from saplab.learning.checkpoint import CHECKPOINT, Diverged, RunFolder
from saplab.learning.progress import Progress
from saplab.models.identity import weights_digest
from saplab.models.initialise import initialise
from saplab.models.zoo import ARCHITECTURES, load_model
from saplab.rng.threads import torch_threads
from saplab.system.counts import check_seed
from saplab.system.precision import exact_convolutions
from saplab.training.batches import Batches, network_input
from saplab.training.objectives import PreviousEpoch, Transferred
from saplab.training.place import Place
from saplab.training.recipes import Recipe
from saplab.training.records import EpochRecord
from saplab.training.steps import Networks, Step
from saplab.training.testing import count_correct, count_robust, hold_out

NUMERICS: Final = 1  # raise it when the same request would give other weights
PRUNING_NUMERICS: Final = 2  # the same, for requests that train through pruning, whose kernel may draw otherwise
_MOMENTUM: Final = "momentum."
_READ_EVERY: Final = 20  # steps between two looks at a CUDA device's loss, each of which waits for the device


def train(
    recipe: Recipe, data: Records, test: Records | None, out: Path, seed: int = 0, threads: int | None = None,
    progress: Progress[EpochRecord] | None = None, place: Place | None = None,
) -> tuple[nn.Module, list[EpochRecord]]:  # fmt: skip
    """Train the recipe's network, beginning with the last checkpoint in ``out`` if there is one.

    Args:
        data: training images, uint8 (N, 3, H, W), of any size and number of classes.
        test: images on which the accuracy is measured after each epoch; they decide nothing.
        out: folder for ``checkpoint.safetensors`` and ``history.jsonl``.
        seed: of first weights, shuffles, crops, flips, an adversary's starts, defences' draws and the network's own;
            0 .. 2**63 - 1.
        threads: of PyTorch, while this runs; None leaves them as they are.
        place: the device, and this process's share of each batch; by default the CPU, and all of it.

    Returns the network in eval mode, without its defences, and the record of every epoch. Raises ValueError for an
    argument out of range or another run's checkpoint, and `Diverged` when the loss is no longer finite; checkpoints
    stay as they are.
    """
    place, progress = place or Place(), progress or Progress()
    recipe = recipe.on(place.device)
    used = _checked_data(recipe, data, test, seed, place)
    request = describe(recipe, used, test, seed) | ({"world": place.world} if place.world > 1 else {})
    folder = RunFolder(out, request, EpochRecord, writes=place.is_first)
    tensors, history = folder.open()
    run = _Run(recipe, used, test, out, seed, progress, place)
    run.restore(tensors)
    progress.on_start(history, len(history) * run.steps, recipe.epochs * run.steps)
    with torch_threads(threads), exact_convolutions():
        for epoch in range(len(history), recipe.epochs):
            history.append(run.epoch(epoch))
            folder.save(run.tensors(), history)
            progress.on_record(history[-1])
    return run.networks.model.eval(), history


def describe(recipe: Recipe, data: Records, test: Records | None, seed: int) -> dict[str, Any]:
    """Return everything that decides a run's weights, in JSON's own types."""
    digests = {"data": digest(data.images, data.labels), "test": digest(test.images, test.labels) if test else None}
    prunes = any(isinstance(defense, SAP | StochasticWeightPruning) for defense in recipe.defenses)
    numerics = PRUNING_NUMERICS if prunes else NUMERICS
    if isinstance(recipe.objective, Transferred):
        digests["source"] = weights_digest(load_model(recipe.objective.source))
    return {"numerics": numerics, "recipe": recipe.described(), "seed": seed, **digests, **_numbering(data)}


def _numbering(data: Records) -> dict[str, Any]:
    """Return what decides weights beside images and labels: classes without an image, and numbers of images."""
    found: dict[str, Any] = {}
    if (count := _class_count(data)) != int(data.labels.max()) + 1:
        found["classes"] = count
    counted = np.array_equal(data.indices, np.arange(len(data)))
    if not counted and not (data.classes == CLASSES and (np.diff(data.indices) > 0).all()):  # CIFAR-10's exact images
        found["indices"] = digest(data.indices)
    return found


class _Totals:
    """Loss and correct answers of the images of an epoch so far, kept on the device that counts them."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._sums = torch.zeros(2, dtype=torch.float64, device=place.device)
        self._seen = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        right = (logits.detach().argmax(dim=1) == labels).sum()
        self._sums += torch.stack((loss.detach().double() * len(labels), right.double()))
        self._seen += len(labels)

    def means(self) -> tuple[float, float]:
        """Return mean loss and accuracy of this process's images."""
        loss, accuracy = (self._sums / self._seen).tolist()
        return loss, accuracy

    def of_all(self) -> tuple[float, float]:
        """Return mean loss and accuracy of all processes' images."""
        sums = self._place.total(self._sums.clone()) / (self._seen * self._place.world)
        loss, accuracy = sums.tolist()
        return loss, accuracy


class _Run:
    def __init__(
        self, recipe: Recipe, used: Records, test: Records | None, out: Path, seed: int,
        progress: Progress[EpochRecord], place: Place,
    ) -> None:  # fmt: skip
        self.recipe, self.test, self.out, self.seed = recipe, test, out, seed
        self.progress, self.place = progress, place
        self.data, self.held_out = hold_out(used, recipe.held_out)
        model = initialise(ARCHITECTURES[recipe.network](classes=_class_count(used)), seed)
        model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stub
        self.networks = Networks(model, recipe.defenses, recipe.precision, seed, place)
        if isinstance(recipe.objective, Transferred):
            self.networks.keep(load_model(recipe.objective.source))
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )  # fmt: skip
        self.batches = Batches(self.data, recipe, place)
        self.steps = len(self.data) // recipe.batch

    def tensors(self) -> dict[str, Tensor]:
        """Return the network's state and the optimiser's momentum, by name."""
        state: dict[str, Tensor] = dict(self.networks.model.state_dict())
        for name, parameter in self.networks.model.named_parameters():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")  # none without momentum
            if buffer is not None:
                state[_MOMENTUM + name] = buffer
        return state

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            return
        model = self.networks.model
        model.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(_MOMENTUM)})
        for name, parameter in model.named_parameters():
            if _MOMENTUM + name in tensors:
                buffer = torch.empty_like(parameter).copy_(tensors[_MOMENTUM + name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()

    def epoch(self, epoch: int) -> EpochRecord:
        """Take every step of an epoch (from 0), then test."""
        start = time.perf_counter()
        if isinstance(self.recipe.objective, PreviousEpoch):
            self.networks.keep_previous()
        totals, busy, rate = _Totals(self.place), 0.0, 0.0
        read_every = 1 if self.place.device.type == "cpu" else _READ_EVERY
        for number, batch in enumerate(self.batches.epoch(self.seed, epoch)):
            rate = self.recipe.schedule.rate(epoch + number / self.steps, self.recipe.epochs)
            images, labels = network_input(batch.pixels), batch.labels
            step = Step(self.networks, images, labels, batch.examples, epoch * self.steps + number)
            began = time.perf_counter()
            loss, logits = self._descend(step, rate)
            busy += time.perf_counter() - began
            totals.add(loss, logits, labels)
            if number % read_every == 0 or number == self.steps - 1:
                self._report(totals, step.number, time.perf_counter() - start)
        trained = time.perf_counter() - start
        if not all(bool(tensor.isfinite().all()) for tensor in self.networks.model.state_dict().values()):
            self._stop(epoch, "the weights after its last step are not finite")
        self.place.average_statistics(self.networks.model)
        loss_mean, accuracy = totals.of_all()
        tested, held_out, robust = self._accuracies()
        speed, seconds = self.steps * self.recipe.batch / trained, time.perf_counter() - start
        share = busy / trained
        return EpochRecord(epoch + 1, rate, loss_mean, accuracy, tested, speed, seconds, share, held_out, robust)

    def _descend(self, step: Step, rate: float) -> tuple[Tensor, Tensor]:
        """Take a step of gradient descent; return the batch's mean loss and its logits from before it."""
        loss, logits = self.recipe.objective.loss(step)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        for parameter in self.networks.model.parameters():
            if parameter.grad is None:  # not met in a pass that chose other layers
                parameter.grad = torch.zeros_like(parameter)
        self.place.average_gradients(self.networks.model)
        self.optimizer.step()
        return loss, logits

    def _report(self, totals: _Totals, number: int, seconds: float) -> None:
        loss, accuracy = totals.means()
        epoch, step = divmod(number, self.steps)
        if not math.isfinite(loss):
            self._stop(epoch, f"the loss up to step {step + 1} is {loss}")
        speed = (step + 1) * self.recipe.batch / seconds
        numbers = {"epoch": epoch + 1, "loss": loss, "accuracy": accuracy, "images/s": speed}
        self.progress.on_step(number + 1, numbers)

    def _stop(self, epoch: int, why: str) -> NoReturn:
        kept = f"{self.out / CHECKPOINT} holds epoch {epoch}" if epoch else "no epoch was finished"
        raise Diverged(f"training stopped in epoch {epoch + 1}: {why}; {kept}")

    def _accuracies(self) -> tuple[float | None, float | None, float | None]:
        """Return the accuracies on the test images, on the held-out ones, and on these under the recipe's check."""
        model, check, held_out = self.networks.model.eval(), self.recipe.check, self.held_out

        def clean(records: Records) -> float:
            return count_correct(model, records, self.recipe.precision, place=self.place) / len(records)

        tested = clean(self.test) if self.test else None
        if held_out is None:
            return tested, None, None
        robust = count_robust(self.networks, held_out, check) / len(held_out) if check else None
        return tested, clean(held_out), robust


def _checked_data(recipe: Recipe, data: Records, test: Records | None, seed: int, place: Place) -> Records:
    check_seed(seed)
    if isinstance(recipe.objective, Transferred) and data.classes != CLASSES:
        source = recipe.objective.source
        raise ValueError(f"`data` must have the classes of CIFAR-10, as {source} has, got {_names(data)}")
    used = data.chosen(slice(recipe.images))
    needed = max(recipe.images or 0, recipe.batch + recipe.held_out)
    if len(used) < needed:
        raise ValueError(f"`data` must hold at least {needed} images, got {len(used)}")
    if test is not None and test.classes != data.classes[: len(test.classes)]:
        raise ValueError(f"`test` must have the classes of `data`, {_names(data)}, got {_names(test)}")
    classes = _class_count(used)
    for name, records in (("data", used), ("test", test)):
        if records is not None and len(records) and not (records.labels.min() >= 0 and records.labels.max() < classes):
            raise ValueError(
                f"`{name}` must have labels in 0..{classes - 1}, got {records.labels.min()} to {records.labels.max()}"
            )
    if recipe.batch % place.world:
        raise ValueError(f"`batch` must be a multiple of the {place.world} processes, got {recipe.batch}")
    return used


def _class_count(data: Records) -> int:
    return len(data.classes) or int(data.labels.max()) + 1


def _names(data: Records) -> str:
    return ", ".join(data.classes) or f"0 .. {_class_count(data) - 1}"

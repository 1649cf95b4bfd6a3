"""The one loop that trains classifiers: stochastic gradient descent, a checkpoint after each epoch.

A run is a function of its request (recipe, seed, data) on one machine with one number of threads: killed at any time
and started again, it ends with the same bits as an unbroken one.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saplab.data.dataset import Records, digest
from saplab.defenses.activations import SAP
from saplab.defenses.weights import StochasticWeightPruning
from saplab.models.initialise import initialise
from saplab.models.zoo import ARCHITECTURES
from saplab.system.files import remove_leftovers, write_atomically
from saplab.training.batches import Batch, OnDevice, OnHost, network_input
from saplab.training.checkpoint import EpochRecord, load_checkpoint, save_checkpoint
from saplab.training.objectives import PreviousEpoch
from saplab.training.place import Place, torch_threads
from saplab.training.progress import Progress, Silent
from saplab.training.recipes import Recipe
from saplab.training.steps import BatchStep, Networks
from saplab.training.testing import count_correct, count_robust, hold_out
from saplab.training.totals import Totals

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.jsonl"
NUMERICS = 1  # raise it when the same request would give other weights
PRUNING_NUMERICS = 2  # the same, of requests that train through pruning, whose kernel may come to draw otherwise
_MOMENTUM = "momentum."
_READ_EVERY = 20  # steps between two looks at a CUDA device's loss, each of which waits for it


class Diverged(ValueError):
    """The loss or the weights stopped being finite numbers."""


@dataclass
class _Run:
    """A run's moving parts, so that the steps below need not pass them one by one."""

    recipe: Recipe
    seed: int
    data: Records
    held_out: Records | None
    test: Records | None
    networks: Networks
    optimizer: torch.optim.SGD
    progress: Progress
    batches: OnHost | OnDevice

    @property
    def place(self) -> Place:
        return self.networks.place

    @property
    def steps(self) -> int:
        return len(self.data) // self.recipe.batch


def train(
    recipe: Recipe,
    data: Records,
    test: Records | None,
    out: Path,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    place: Place | None = None,
) -> tuple[nn.Module, list[EpochRecord]]:
    """Train the recipe's network, from the last checkpoint in ``out`` where there is one.

    Args:
        recipe: how.
        data: training images, uint8 (N, 3, H, W), of any size and number of classes.
        test: images whose accuracy is measured after each epoch; it decides nothing.
        out: folder for ``checkpoint.safetensors`` and ``history.jsonl``.
        seed: of the first weights, the shuffles, the crops and the flips, an adversary's starts and the defences'
            draws; 0 .. 2**63 - 1.
        threads: of PyTorch, while this runs; None leaves them as they are.
        progress: told of every step and epoch.
        place: the device, and this process's share of each batch; by default the CPU alone.

    Returns:
        the network in eval mode, without its defences, and the record of every epoch.

    Raises:
        ValueError: an argument out of range, or ``out`` holds another run's checkpoint (which stays as it is).
        Diverged: the loss is no longer finite; the last good checkpoint stays.
        OSError: a file could not be written; the checkpoint before it stays.
    """
    place = place or Place()
    used = _checked_data(recipe, data, test, seed, place)
    out.mkdir(parents=True, exist_ok=True)
    if place.is_first:
        remove_leftovers(out)
    request = describe(recipe, used, test, seed) | ({"world": place.share.world} if place.share.world > 1 else {})
    run = _begin(recipe, used, test, seed, place, progress or Silent())
    history = _restore(run, out, request)
    run.progress.on_start(history, recipe, run.steps)
    with torch_threads(threads), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        for epoch in range(len(history), recipe.epochs):
            history.append(_epoch(run, epoch, out))
            if place.is_first:
                save_checkpoint(out / CHECKPOINT, request, _tensors(run), history)
                write_history(out / HISTORY, history)
            run.progress.on_epoch(history[-1])
    return run.networks.model.eval(), history


def describe(recipe: Recipe, data: Records, test: Records | None, seed: int) -> dict[str, Any]:
    """Give everything that decides a run's weights, as JSON's own types."""
    digests = {"data": digest(data.images, data.labels), "test": digest(test.images, test.labels) if test else None}
    prunes = any(isinstance(defense, SAP | StochasticWeightPruning) for defense in recipe.defenses)
    numerics = PRUNING_NUMERICS if prunes else NUMERICS
    return {"numerics": numerics, "recipe": recipe.described(), "seed": seed, **digests}


def class_count(data: Records) -> int:
    """Give the number of classes: of their names, or else of the labels that occur."""
    return len(data.classes) or int(data.labels.max()) + 1


def write_history(path: Path, history: list[EpochRecord]) -> None:
    """Write one JSON object a line, one line an epoch."""
    write_atomically(path, "".join(json.dumps(asdict(record)) + "\n" for record in history).encode())


def _begin(recipe: Recipe, used: Records, test: Records | None, seed: int, place: Place, progress: Progress) -> _Run:
    """Build the network with its first weights, and all that trains it."""
    data, held_out = hold_out(used, recipe.held_out)
    model = initialise(ARCHITECTURES[recipe.network](classes=class_count(used)), seed)
    model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stub
    on_host = place.device.type == "cpu"
    batches = OnHost(data, recipe, place.share) if on_host else OnDevice(data, recipe, place.share, place.device)
    networks = Networks(recipe, model, seed, place)
    return _Run(recipe, seed, data, held_out, test, networks, _optimizer(recipe, model), progress, batches)


def _epoch(run: _Run, epoch: int, out: Path) -> EpochRecord:
    """Take every step of an epoch (from 0), then test."""
    start = time.perf_counter()
    if isinstance(run.recipe.objective, PreviousEpoch):
        run.networks.keep_previous()
    totals, busy, rate = Totals(run.place), 0.0, 0.0
    for step, batch in enumerate(run.batches.epoch(run.seed, epoch)):
        rate = run.recipe.schedule.rate(epoch + step / run.steps, run.recipe.epochs)
        task = _task(run, batch, epoch * run.steps + step)
        began = time.perf_counter()
        loss, logits = _step(run, task, rate)
        busy += time.perf_counter() - began
        totals.add(loss, logits, task.labels)
        if step % _read_every(run.place) == 0 or step == run.steps - 1:
            _report(run, totals, epoch, step, out)
    trained = time.perf_counter() - start
    _require_finite_weights(run, epoch, out)
    run.place.average_statistics(run.networks.model)
    loss_mean, accuracy = totals.of_all()
    tested, held_out, robust = _accuracies(run)
    speed, busy = run.steps * run.recipe.batch / trained, busy / trained
    seconds = time.perf_counter() - start
    return EpochRecord(epoch + 1, rate, loss_mean, accuracy, tested, speed, seconds, busy, held_out, robust)


def _task(run: _Run, batch: Batch, number: int) -> BatchStep:
    """Put a batch on the device, as the network takes it."""
    images = network_input(batch.pixels.to(run.place.device))
    return BatchStep(run.networks, images, batch.labels.to(run.place.device), batch.examples, number)


def _step(run: _Run, task: BatchStep, rate: float) -> tuple[Tensor, Tensor]:
    """Take one step of gradient descent; give the batch's mean loss and its logits before it."""
    loss, logits = run.recipe.objective.loss(task)
    run.optimizer.param_groups[0]["lr"] = rate
    run.optimizer.zero_grad()
    torch.autograd.backward(loss)
    run.place.average_gradients(run.networks.model)
    run.optimizer.step()
    return loss, logits


def _read_every(place: Place) -> int:
    return 1 if place.device.type == "cpu" else _READ_EVERY


def _report(run: _Run, totals: Totals, epoch: int, step: int, out: Path) -> None:
    """Tell the progress, and stop if the loss is no longer finite."""
    loss, accuracy = totals.means()
    if not math.isfinite(loss):
        raise Diverged(_diverged_message(f"the loss up to step {step + 1} is {loss}", epoch, out))
    run.progress.on_step(epoch + 1, step + 1, loss, accuracy)


def _require_finite_weights(run: _Run, epoch: int, out: Path) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in run.networks.model.state_dict().values()):
        raise Diverged(_diverged_message("the weights after its last step are not finite", epoch, out))


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(),
        lr=0.0,  # set before every step
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def _accuracies(run: _Run) -> tuple[float | None, float | None, float | None]:
    """Give the accuracies on the test images, on the held-out ones, and on these under the recipe's check."""
    model, recipe, check = run.networks.model.eval(), run.recipe, run.recipe.check

    def clean(records: Records | None) -> float | None:
        return count_correct(model, records, recipe.precision, place=run.place) / len(records) if records else None

    robust = count_robust(run.networks, run.held_out, check) / len(run.held_out) if check and run.held_out else None
    return clean(run.test), clean(run.held_out), robust


def _tensors(run: _Run) -> dict[str, Tensor]:
    """Give the network's state and the optimiser's momentum, by name."""
    state: dict[str, Tensor] = dict(run.networks.model.state_dict())
    for name, parameter in run.networks.model.named_parameters():
        state[_MOMENTUM + name] = run.optimizer.state[parameter]["momentum_buffer"]
    return state


def _restore(run: _Run, out: Path, request: dict[str, Any]) -> list[EpochRecord]:
    """Put the last checkpoint's tensors back, where there is one, and give its history."""
    path, model = out / CHECKPOINT, run.networks.model
    if not path.exists():
        if (out / HISTORY).exists():
            raise ValueError(f"{out} holds a training history without a checkpoint; choose another folder")
        return []
    tensors, history = load_checkpoint(path, request)
    model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(_MOMENTUM)})
    for name, parameter in model.named_parameters():
        buffer = torch.empty_like(parameter).copy_(tensors[_MOMENTUM + name])
        run.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
    if run.place.is_first:
        write_history(out / HISTORY, history)
    return history


def _checked_data(recipe: Recipe, data: Records, test: Records | None, seed: int, place: Place) -> Records:
    """Check the arguments, and give the images that the recipe uses."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be in 0 .. 2**63 - 1, got {seed}")
    needed = recipe.images or recipe.batch + recipe.held_out
    if len(data) < needed:
        raise ValueError(f"`data` must hold at least {needed} images, got {len(data)}")
    if test is not None and test.classes != data.classes[: len(test.classes)]:
        raise ValueError(f"`test` must have the classes of `data`, {_names(data)}, got {_names(test)}")
    if recipe.batch % place.share.world:
        raise ValueError(f"`batch` must be a multiple of the {place.share.world} processes, got {recipe.batch}")
    return data.chosen(slice(recipe.images))


def _names(data: Records) -> str:
    return ", ".join(data.classes) or f"0 .. {class_count(data) - 1}"


def _diverged_message(what: str, epoch: int, out: Path) -> str:
    kept = f"{out / CHECKPOINT} holds epoch {epoch}" if epoch else "no epoch was finished"
    return f"training stopped in epoch {epoch + 1}: {what}; {kept}"

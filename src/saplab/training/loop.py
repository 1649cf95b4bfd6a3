"""The one loop that trains classifiers: stochastic gradient descent, a checkpoint after each epoch.

A run is a function of its request (recipe, seed, data) on one machine with one number of threads: killed at any time
and started again, it ends with the same bits as an unbroken one.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from saplab.data.cifar10 import Records
from saplab.data.dataset import digest
from saplab.files import remove_leftovers, write_atomically
from saplab.models.initialise import initialise
from saplab.models.zoo import ARCHITECTURES
from saplab.training.batches import epoch_batches, network_input
from saplab.training.checkpoint import EpochRecord, load_checkpoint, save_checkpoint
from saplab.training.progress import Progress, Silent
from saplab.training.recipes import Recipe

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.jsonl"
NUMERICS = 1  # raise it when the same request would give other weights
_MOMENTUM = "momentum."


class Diverged(ValueError):
    """The loss or the weights stopped being finite numbers."""


@dataclass
class _Run:
    """A run's moving parts, so that the steps below need not pass them one by one."""

    recipe: Recipe
    seed: int
    data: Records
    test: Records | None
    model: nn.Module
    optimizer: torch.optim.SGD
    progress: Progress

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
) -> tuple[nn.Module, list[EpochRecord]]:
    """Train the recipe's network, from the last checkpoint in ``out`` where there is one.

    Args:
        recipe: how.
        data: training images, uint8 (N, 3, H, W).
        test: images whose accuracy is measured after each epoch; it decides nothing.
        out: folder for ``checkpoint.safetensors`` and ``history.jsonl``.
        seed: of the first weights, the shuffles, the crops and the flips; 0 .. 2**63 - 1.
        threads: of PyTorch, while this runs; None leaves them as they are.
        progress: told of every step and epoch.

    Returns:
        the network in eval mode, and the record of every epoch.

    Raises:
        ValueError: an argument out of range, or ``out`` holds another run's checkpoint (which stays as it is).
        Diverged: the loss is no longer finite; the last good checkpoint stays.
        OSError: a file could not be written; the checkpoint before it stays.
    """
    data = _checked_data(recipe, data, seed)
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    request = describe(recipe, data, test, seed)
    model = initialise(ARCHITECTURES[recipe.network](), seed)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's own stub
    run = _Run(recipe, seed, data, test, model, _optimizer(recipe, model), progress or Silent())
    history = _restore(run, out, request)
    run.progress.on_start(history, recipe, run.steps)
    with _torch_threads(threads):
        for epoch in range(len(history), recipe.epochs):
            record = _epoch(run, epoch, out)
            history.append(record)
            save_checkpoint(out / CHECKPOINT, request, _tensors(run), history)
            write_history(out / HISTORY, history)
            run.progress.on_epoch(record)
    return model.eval(), history


def describe(recipe: Recipe, data: Records, test: Records | None, seed: int) -> dict[str, Any]:
    """Give everything that decides a run's weights, as JSON's own types."""
    described: dict[str, Any] = asdict(recipe)
    described["schedule"] = {"kind": type(recipe.schedule).__name__, **described["schedule"]}
    digests = {"data": digest(data.images, data.labels), "test": digest(test.images, test.labels) if test else None}
    return {"numerics": NUMERICS, "recipe": described, "seed": seed, **digests}


@torch.no_grad()
def count_correct(model: nn.Module, records: Records, precision: str = "float32", batch: int = 500) -> int:
    """Count the images that a network in eval mode gets right; float32 unless told ``bfloat16``."""
    correct = 0
    for start in range(0, len(records), batch):
        images = network_input(records.images[start : start + batch])
        labels = torch.from_numpy(records.labels[start : start + batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        correct += int((logits.argmax(dim=1) == labels).sum())
    return correct


def write_history(path: Path, history: list[EpochRecord]) -> None:
    """Write one JSON object a line, one line an epoch."""
    write_atomically(path, "".join(json.dumps(asdict(record)) + "\n" for record in history).encode())


def _epoch(run: _Run, epoch: int, out: Path) -> EpochRecord:
    """Take every step of an epoch (from 0), then test."""
    start = time.perf_counter()
    run.model.train()
    loss_sum, correct, seen, rate = 0.0, 0, 0, 0.0
    for step, (images, labels) in enumerate(epoch_batches(run.data, run.recipe, run.seed, epoch)):
        rate = run.recipe.schedule.rate(epoch + step / run.steps, run.recipe.epochs)
        loss, right = _step(run, images, labels, rate)
        if not np.isfinite(loss):
            raise Diverged(_diverged_message(f"the loss of step {step + 1} is {loss}", epoch, out))
        loss_sum, correct, seen = loss_sum + loss * len(labels), correct + right, seen + len(labels)
        run.progress.on_step(epoch + 1, step + 1, loss_sum / seen, correct / seen)
    trained = time.perf_counter()
    if not all(bool(tensor.isfinite().all()) for tensor in run.model.state_dict().values()):
        raise Diverged(_diverged_message("the weights after its last step are not finite", epoch, out))
    tested = _test_accuracy(run)
    seconds = time.perf_counter() - start
    return EpochRecord(epoch + 1, rate, loss_sum / seen, correct / seen, tested, seen / (trained - start), seconds)


def _step(run: _Run, images: np.ndarray, labels: np.ndarray, rate: float) -> tuple[float, int]:
    """Take one step of gradient descent; give the batch's mean loss and its number of right answers before it."""
    targets = torch.from_numpy(labels)
    with torch.autocast("cpu", torch.bfloat16, enabled=run.recipe.precision == "bfloat16"):
        logits = run.model(network_input(images))
    loss = F.cross_entropy(logits.float(), targets)
    run.optimizer.param_groups[0]["lr"] = rate
    run.optimizer.zero_grad()
    torch.autograd.backward(loss)
    run.optimizer.step()
    return loss.item(), int((logits.argmax(dim=1) == targets).sum())


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(),
        lr=0.0,  # set before every step
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def _test_accuracy(run: _Run) -> float | None:
    if run.test is None:
        return None
    return count_correct(run.model.eval(), run.test, run.recipe.precision) / len(run.test)


def _tensors(run: _Run) -> dict[str, torch.Tensor]:
    """Give the network's state and the optimiser's momentum, by name."""
    state: dict[str, torch.Tensor] = dict(run.model.state_dict())
    for name, parameter in run.model.named_parameters():
        state[_MOMENTUM + name] = run.optimizer.state[parameter]["momentum_buffer"]
    return state


def _restore(run: _Run, out: Path, request: dict[str, Any]) -> list[EpochRecord]:
    """Put the last checkpoint's tensors back, where there is one, and give its history."""
    path = out / CHECKPOINT
    if not path.exists():
        if (out / HISTORY).exists():
            raise ValueError(f"{out} holds a training history without a checkpoint; choose another folder")
        return []
    tensors, history = load_checkpoint(path, request)
    run.model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(_MOMENTUM)})
    for name, parameter in run.model.named_parameters():
        buffer = torch.empty_like(parameter).copy_(tensors[_MOMENTUM + name])
        run.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
    write_history(out / HISTORY, history)
    return history


def _checked_data(recipe: Recipe, data: Records, seed: int) -> Records:
    """Check the arguments, and give the images that the recipe uses."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be in 0 .. 2**63 - 1, got {seed}")
    if len(data) < (recipe.images or recipe.batch):
        raise ValueError(f"`data` must hold at least {recipe.images or recipe.batch} images, got {len(data)}")
    kept = slice(recipe.images)
    return Records(data.images[kept], data.labels[kept], data.indices[kept])


def _diverged_message(what: str, epoch: int, out: Path) -> str:
    kept = f"{out / CHECKPOINT} holds epoch {epoch}" if epoch else "no epoch was finished"
    return f"training stopped in epoch {epoch + 1}: {what}; {kept}"


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads for a while."""
    before = torch.get_num_threads()
    if threads is not None:
        if threads < 1:
            raise ValueError(f"`threads` must be >= 1, got {threads}")
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

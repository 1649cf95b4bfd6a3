"""What the training loop tells whoever watches it."""

from pathlib import Path
from typing import Protocol

from saplab.learning.tensorboard import Scalars
from saplab.training.checkpoint import EpochRecord
from saplab.training.recipes import Recipe


class Progress(Protocol):
    """What the loop tells whoever watches it."""

    def on_start(self, history: list[EpochRecord], recipe: Recipe, steps: int) -> None:
        """Take note of the epochs that a checkpoint already holds, and of an epoch's number of steps."""

    def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        """Take note of a step: epoch and step from 1; means over the epoch so far."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Take note of an epoch; its checkpoint is on the disk."""


class Silent:
    """A progress that nobody watches."""

    def on_start(self, history: list[EpochRecord], recipe: Recipe, steps: int) -> None:
        """Do nothing."""

    def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        """Do nothing."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Do nothing."""


class TensorBoard:
    """A progress that tells TensorBoard of every epoch, and another progress of everything.

    Args:
        folder: for TensorBoard's files; epochs that a resumed run repeats replace those written before.
        other: the other progress.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, other: Progress) -> None:
        self._scalars, self._other = Scalars(folder), other

    def on_start(self, history: list[EpochRecord], recipe: Recipe, steps: int) -> None:
        """Begin after the epochs that a checkpoint already holds."""
        self._scalars.begin(len(history) + 1)
        self._other.on_start(history, recipe, steps)

    def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        """Tell the other progress."""
        self._other.on_step(epoch, step, loss, accuracy)

    def on_epoch(self, record: EpochRecord) -> None:
        """Write every number of the epoch."""
        self._scalars.write(record.epoch, {name: value for name, value in vars(record).items() if name != "epoch"})
        self._other.on_epoch(record)

"""What the training loop tells whoever watches it."""

from typing import Protocol

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

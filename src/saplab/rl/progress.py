"""What an agent's training tells whoever watches it."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol

from saplab.learning.tensorboard import Scalars
from saplab.rl.checkpoint import AgentRecord
from saplab.rl.recipes import AgentRecipe


class Progress(Protocol):
    """What the loop tells whoever watches it."""

    def on_start(self, recipe: AgentRecipe, history: Sequence[AgentRecord]) -> None:
        """Take note of the records that a checkpoint already holds."""

    def on_step(self, step: int) -> None:
        """Take note of the steps done."""

    def on_record(self, record: AgentRecord) -> None:
        """Take note of a record; its checkpoint is on the disk."""


class Silent:
    """A progress that nobody watches."""

    def on_start(self, recipe: AgentRecipe, history: Sequence[AgentRecord]) -> None:
        """Do nothing."""

    def on_step(self, step: int) -> None:
        """Do nothing."""

    def on_record(self, record: AgentRecord) -> None:
        """Do nothing."""


class TensorBoard:
    """A progress that tells TensorBoard of every record, and another progress of everything.

    Args:
        folder: for TensorBoard's files; records that a resumed run repeats replace those written before.
        other: the other progress.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, other: Progress) -> None:
        self._scalars, self._other = Scalars(folder), other

    def on_start(self, recipe: AgentRecipe, history: Sequence[AgentRecord]) -> None:
        """Begin after the records that a checkpoint already holds."""
        self._scalars.begin(history[-1].step + 1 if history else 0)
        self._other.on_start(recipe, history)

    def on_step(self, step: int) -> None:
        """Tell the other progress."""
        self._other.on_step(step)

    def on_record(self, record: AgentRecord) -> None:
        """Write every number of the record, and the mean of its evaluation."""
        numbers = {name: value for name, value in vars(record).items() if name not in ("step", "evaluation")}
        self._scalars.write(
            record.step, numbers | {"evaluation": fmean(record.evaluation) if record.evaluation else None}
        )
        self._other.on_record(record)

"""What a person sees of a training run: a bar on a terminal, elsewhere a line an epoch; all on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from saplab.training.checkpoint import EpochRecord
    from saplab.training.progress import Progress
    from saplab.training.recipes import Recipe


@contextmanager
def watch() -> "Iterator[Progress]":
    """Give a progress for the terminal, or one that writes plain lines; either on stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(bars)


class _Lines:
    """One line an epoch."""

    def __init__(self) -> None:
        self._epochs = 0

    def on_start(self, history: "list[EpochRecord]", recipe: "Recipe", steps: int) -> None:
        self._epochs = recipe.epochs
        if history:
            tell(f"goes on after epoch {len(history)} of {recipe.epochs}")

    def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        pass

    def on_epoch(self, record: "EpochRecord") -> None:
        tell(_summary(record, self._epochs))


class _Bar:
    """A bar over the steps of all epochs, and a line above it for each epoch."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._epochs, self._steps, self._batch = 0, 0, 0

    def on_start(self, history: "list[EpochRecord]", recipe: "Recipe", steps: int) -> None:
        self._epochs, self._steps, self._batch = recipe.epochs, steps, recipe.batch
        self._task = self._bars.add_task("train", total=recipe.epochs * steps, completed=len(history) * steps, state="")

    def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        if self._task is None:
            return
        self._bars.update(self._task, completed=(epoch - 1) * self._steps + step)
        speed = self._batch * (self._bars.tasks[0].speed or 0)
        state = f"epoch {epoch}/{self._epochs}  loss {loss:.3f}  accuracy {100 * accuracy:.1f} %  {speed:.0f} images/s"
        self._bars.update(self._task, state=state)

    def on_epoch(self, record: "EpochRecord") -> None:
        self._bars.console.print(_summary(record, self._epochs), highlight=False)


def _summary(record: "EpochRecord", epochs: int) -> str:
    accuracies = {
        "train": record.train_accuracy,
        "test": record.test_accuracy,
        "held out": record.held_out_accuracy,
        "under attack": record.robust_accuracy,
    }
    shown = ", ".join(f"{name} {100 * value:.2f} %" for name, value in accuracies.items() if value is not None)
    speed = f"{record.images_per_second:.0f} images/s, {record.seconds:.0f} s"
    return f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, {shown}, {speed}"


def tell(line: str) -> None:
    """Write a line to stderr."""
    typer.echo(line, err=True)

"""What a user sees of a training run, on stderr: a line for each record, and on a terminal a bar below them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from saplab.learning.progress import Progress, Record

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


@contextmanager
def watch(title: str, describe: Callable[[Record], str], name: Callable[[Record], str]) -> Iterator[Progress[Record]]:
    """Yield a progress that shows a run.

    Args:
        title: text beside the bar.
        describe: returns the line of a record.
        name: returns what a record is called where a run goes on after it: "epoch 3 of 10".
    """
    if not sys.stderr.isatty():
        yield _Lines(describe, name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(bars, title, describe, name)


class _Lines(Progress[Record]):
    def __init__(self, describe: Callable[[Record], str], name: Callable[[Record], str]) -> None:
        self._describe, self._name = describe, name

    def on_start(self, history: Sequence[Record], done: int, total: int) -> None:
        if history:
            self._say(f"goes on after {self._name(history[-1])}")

    def on_record(self, record: Record) -> None:
        self._say(self._describe(record))

    def _say(self, line: str) -> None:
        tell(line)


class _Bar(_Lines[Record]):
    def __init__(
        self, bars: "Bars", title: str, describe: Callable[[Record], str], name: Callable[[Record], str]
    ) -> None:
        super().__init__(describe, name)
        self._bars = bars
        self._task = bars.add_task(title, total=None, state="")

    def on_start(self, history: Sequence[Record], done: int, total: int) -> None:
        super().on_start(history, done, total)
        self._bars.update(self._task, completed=done, total=total)

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        state = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self._bars.update(self._task, completed=step, state=state)

    def _say(self, line: str) -> None:
        self._bars.console.print(line, highlight=False, markup=False)


def tell(line: str) -> None:
    """Write a line to stderr."""
    typer.echo(line, err=True)

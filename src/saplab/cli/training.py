"""What a user sees of a training run, on stderr: a line for each record, and on a terminal a bar below them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from saplab.learning.progress import Progress, Record

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


@contextmanager
def watch(title: str, describe: Callable[[Record], str], name: Callable[[Record], str]) -> Iterator[Progress[Record]]:
    """Yield a progress that shows a run, with the title beside the bar.

    `describe` returns the line of a record, `name` what it is called where a run goes on after it: "epoch 3 of 10".
    """
    if not sys.stderr.isatty():
        yield _Lines(describe, name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(describe, name, bars, bars.add_task(title, total=None, state=""))


@dataclass
class _Lines(Progress[Record]):
    describe: Callable[[Record], str]
    name: Callable[[Record], str]

    def on_start(self, history: Sequence[Record], done: int, total: int) -> None:
        if history:
            self.say(f"goes on after {self.name(history[-1])}")

    def on_record(self, record: Record) -> None:
        self.say(self.describe(record))

    def say(self, line: str) -> None:
        tell(line)


@dataclass
class _Bar(_Lines[Record]):
    bars: "Bars"
    task: "TaskID"

    def on_start(self, history: Sequence[Record], done: int, total: int) -> None:
        super().on_start(history, done, total)
        self.bars.update(self.task, completed=done, total=total)

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        state = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self.bars.update(self.task, completed=step, state=state)

    def say(self, line: str) -> None:
        self.bars.console.print(line, highlight=False, markup=False)


def tell(line: str) -> None:
    """Write a line to stderr."""
    typer.echo(line, err=True)

"""``saplab train``: train a network by one of the recipes."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from saplab.training.checkpoint import EpochRecord
    from saplab.training.progress import Progress
    from saplab.training.recipes import Recipe


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("train")(train)


def train(
    recipe: Annotated[str, typer.Argument(help="What to train: dense.")],
    data: Annotated[str, typer.Option(help="cifar10:DIR, the folder that holds CIFAR-10 in either of its layouts.")],
    preset: Annotated[str, typer.Option(help="paper, small (two CPU cores, under an hour) or smoke.")] = "small",
    out: Annotated[Path | None, typer.Option(help="Folder for the run; by default runs/train/RECIPE-PRESET.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first weights, shuffles, crops and flips.")] = 0,
    threads: Annotated[int | None, typer.Option(help="PyTorch's threads; by default its own choice.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout.")] = False,
) -> None:
    """Train a network by a recipe.

    Killed and started again, the same command goes on where it stopped.
    """
    from dataclasses import replace

    import torch

    from saplab.data.cifar10 import read_records
    from saplab.data.load import cifar10_root
    from saplab.models.zoo import weights_digest
    from saplab.runs.machine import processor
    from saplab.training.card import Score, export, write_card
    from saplab.training.loop import count_correct
    from saplab.training.loop import train as run
    from saplab.training.recipes import find_recipe

    chosen = find_recipe(recipe, preset)
    chosen = chosen if epochs is None else replace(chosen, epochs=epochs)
    root = cifar10_root(data)
    folder = out or Path("runs/train") / f"{recipe}-{preset}"
    test = read_records("test", root)
    try:
        with _watch() as progress:
            model, history = run(chosen, read_records("train", root), test, folder, seed, threads, progress)
    except KeyboardInterrupt:
        _tell(f"stopped; {folder} keeps every finished epoch, and the same command goes on from there")
        raise
    score = Score(count_correct(model, test), len(test))
    command = shlex.join(["saplab", *sys.argv[1:]])
    machine = f"{processor()}, {threads or torch.get_num_threads()} threads"
    export(model, write_card(chosen, seed, score, history, command, machine), folder)
    if as_json:
        low, high = score.interval()
        result = {"out": str(folder), "correct": score.correct, "images": score.images, "accuracy": score.accuracy}
        typer.echo(json.dumps({**result, "interval": [low, high], "digest": weights_digest(model)}))
    else:
        typer.echo(f"{folder}: {score}")


@contextmanager
def _watch() -> "Iterator[Progress]":
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
            _tell(f"goes on after epoch {len(history)} of {recipe.epochs}")

    def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        pass

    def on_epoch(self, record: "EpochRecord") -> None:
        _tell(_summary(record, self._epochs))


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
    tested = "" if record.test_accuracy is None else f", test {100 * record.test_accuracy:.2f} %"
    return (
        f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, train {100 * record.train_accuracy:.2f} %"
        f"{tested}, {record.images_per_second:.0f} images/s, {record.seconds:.0f} s"
    )


def _tell(line: str) -> None:
    typer.echo(line, err=True)

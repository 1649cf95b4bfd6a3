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
    from torch import nn

    from saplab.data.cifar10 import Records
    from saplab.training.checkpoint import EpochRecord
    from saplab.training.place import Place
    from saplab.training.progress import Progress
    from saplab.training.recipes import Recipe

    Finished = tuple[nn.Module, list[EpochRecord]]


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("train")(train)


def train(
    recipe: Annotated[str, typer.Argument(help="dense, dropout, adversarial, fast, pgd or trades; see --list.")] = "",
    data: Annotated[str, typer.Option(help="cifar10:DIR, the folder that holds CIFAR-10 in either layout.")] = "",
    preset: Annotated[str, typer.Option(help="paper, small (two CPU cores, an hour or two) or smoke.")] = "small",
    out: Annotated[Path | None, typer.Option(help="Folder for the run; by default runs/train/RECIPE-PRESET.")] = None,
    seed: Annotated[int, typer.Option(help="Of first weights, shuffles, crops, flips, starts and draws.")] = 0,
    network: Annotated[str | None, typer.Option(help="resnet20 or preact-resnet20 (default).")] = None,
    rate: Annotated[float | None, typer.Option(help="Of dropout; the recipe's own is 0.1.")] = None,
    defense: Annotated[str, typer.Option(help="Train through it, such as sap:100; fresh draws in every pass.")] = "",
    epochs: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch's threads; by default its own choice.")] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda or cuda:N.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Run the network through torch.compile.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Print the recipes, and train nothing.")] = False,
) -> None:
    """Train a network by a recipe.

    Killed and started again, the same command goes on where it stopped. Under torchrun, processes share each batch.
    """
    if listed:
        _list_recipes()
        return
    if not recipe or not data:
        raise ValueError("`recipe` and `data` must be given: saplab train RECIPE --data cifar10:DIR, or --list")
    from saplab.data.cifar10 import read_records
    from saplab.data.load import cifar10_root
    from saplab.training.place import joined

    chosen = _chosen(recipe, preset, network, rate, defense, epochs)
    root = cifar10_root(data)
    folder = out or Path("runs/train") / "-".join(filter(None, (recipe, preset)))
    test = read_records("test", root)
    with joined(device, compiled) as place:
        model = _run(chosen, read_records("train", root), test, folder, seed, threads, place)
        if place.is_first:
            _finish(model, chosen, test, folder, seed, threads, place, as_json)


def _chosen(
    name: str, preset: str, network: str | None, rate: float | None, defense: str, epochs: int | None
) -> "Recipe":
    """Find the recipe, and change what the command line changes."""
    from dataclasses import replace

    from saplab.defenses import Dropout
    from saplab.models.zoo import ARCHITECTURES
    from saplab.studies.specs import parse_defenses
    from saplab.training.recipes import find_recipe

    recipe = find_recipe(name, preset)
    if network is not None:
        if network not in ARCHITECTURES:
            raise ValueError(f"`network` must be one of {', '.join(ARCHITECTURES)}, got {network!r}")
        recipe = replace(recipe, network=network)
    if rate is not None:
        if name != "dropout":
            raise ValueError(f"`rate` belongs to the recipe 'dropout', got it for {name!r}")
        recipe = replace(recipe, defenses=(Dropout(rate),))
    if defense:
        recipe = replace(recipe, defenses=(*recipe.defenses, *parse_defenses(defense)))
    return recipe if epochs is None else replace(recipe, epochs=epochs)


def _run(
    recipe: "Recipe", data: "Records", test: "Records", out: Path, seed: int, threads: int | None, place: "Place"
) -> "Finished":
    from saplab.training.loop import train as run
    from saplab.training.progress import Silent

    try:
        with _watch() as progress:
            return run(recipe, data, test, out, seed, threads, progress if place.is_first else Silent(), place)
    except KeyboardInterrupt:
        _tell(f"stopped; {out} keeps every finished epoch, and the same command goes on from there")
        raise


def _finish(
    finished: "Finished", recipe: "Recipe", test: "Records", out: Path, seed: int, threads: int | None,
    place: "Place", as_json: bool,
) -> None:  # fmt: skip
    """Write weights and card, and say how good the network is."""
    import torch

    from saplab.models.zoo import weights_digest
    from saplab.runs.machine import processor
    from saplab.training.card import Score, export, write_card
    from saplab.training.testing import count_correct

    model, history = finished
    model.cpu()
    score = Score(count_correct(model, test), len(test))
    command = shlex.join(["saplab", *sys.argv[1:]])
    machine = f"{processor()}, {threads or torch.get_num_threads()} threads"
    export(model, write_card(recipe, seed, score, history, command, machine), out)
    if as_json:
        low, high = score.interval()
        result = {"out": str(out), "correct": score.correct, "images": score.images, "accuracy": score.accuracy}
        typer.echo(json.dumps({**result, "interval": [low, high], "digest": weights_digest(model)}))
    else:
        typer.echo(f"{out}: {score}")


def _list_recipes() -> None:
    """Print each recipe with its presets, a field a line."""
    from saplab.training.recipes import RECIPES

    for (name, preset), recipe in RECIPES.items():
        typer.echo(f"{name} --preset {preset}")
        for field, value in recipe.described().items():
            if field not in ("name", "preset"):
                typer.echo(f"  {field}: {json.dumps(value)}")


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
    accuracies = {
        "train": record.train_accuracy,
        "test": record.test_accuracy,
        "held out": record.held_out_accuracy,
        "under attack": record.robust_accuracy,
    }
    shown = ", ".join(f"{name} {100 * value:.2f} %" for name, value in accuracies.items() if value is not None)
    speed = f"{record.images_per_second:.0f} images/s, {record.seconds:.0f} s"
    return f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, {shown}, {speed}"


def _tell(line: str) -> None:
    typer.echo(line, err=True)

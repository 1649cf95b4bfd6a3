"""``saplab train``: train a network by one of the recipes."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli import options
from saplab.cli.options import option
from saplab.cli.training import tell, watch

if TYPE_CHECKING:
    from torch import nn

    from saplab.data.dataset import Records
    from saplab.training.card import FinishedRun
    from saplab.training.choice import Choice
    from saplab.training.place import Place
    from saplab.training.recipes import Recipe
    from saplab.training.records import EpochRecord

CIFAR10 = "cifar10:DIR"  # in a command for others, who have it elsewhere
TEST_IMAGES = "CIFAR-10's test images that every copy of the set holds bit by bit"
_GIVEN_IMAGES = "the test images given"
_HELD_OUT_IMAGES = "the training images that were held out, chosen at random by a fixed rule"
_SHARE_HELD_OUT = 10  # one image of so many, where no test images are given


@dataclass(frozen=True)
class Job:
    """A training run: what, on which images, where, and what its command says beside the recipe."""

    choice: "Choice"
    data: "Records"
    test: "Records | None"
    out: Path
    source: str = CIFAR10
    tested_on: str = TEST_IMAGES
    seed: int = 0
    threads: int | None = None
    tensorboard: bool = False
    test_source: str | None = None  # of test images that were given
    image_size: int | None = None  # of a folder's pictures

    def command(self, processes: int, compiled: bool = False) -> str:
        """Return the command that makes the same network with this number of processes."""
        return self.choice.command(
            self.source, processes, test=self.test_source, image_size=self.image_size, seed=self.seed or None,
            threads=self.threads, compile=compiled or None,
        )  # fmt: skip


def train(
    recipe: Annotated[str, typer.Argument(help="dense, dropout, fast, pni, …; --list prints them all.")] = "",
    data: Annotated[str, option(options.DATA, "cifar10:DIR, an .npz file, or a folder of pictures by class.")] = "",
    test: Annotated[str, option(options.DATA, "Test images, like --data; cifar10:DIR has its own.")] = "",
    validation: Annotated[
        int | None, option(options.DATA, "Hold so many training images out, and test on them.")
    ] = None,
    image_size: Annotated[int, option(options.DATA, "Pixels a side that a folder's pictures are brought to.")] = 32,
    preset: Annotated[
        str, option(options.TRAINING, "paper, small (two CPU cores, an hour or two) or smoke.")
    ] = "small",
    out: Annotated[Path | None, option(options.OUTPUT, "Folder for the run; by default one of runs/train.")] = None,
    seed: Annotated[int, option(options.TRAINING, "Of first weights, shuffles, crops, flips, starts and draws.")] = 0,
    network: Annotated[str | None, option(options.NETWORK, "An architecture, instead of the recipe's.")] = None,
    rate: Annotated[float | None, option(options.TRAINING, "Of dropout; the recipe's own is 0.1.")] = None,
    std: Annotated[float | None, option(options.TRAINING, "Of gaussian's noise on images; its own is 0.25.")] = None,
    defense: Annotated[
        str,
        option(
            options.DEFENCE, "Train through it, such as sap:100; fresh draws in every pass.", "--defense", "--defence"
        ),
    ] = "",
    epochs: Annotated[int | None, option(options.TRAINING, "Instead of the preset's.")] = None,
    batch: Annotated[int | None, option(options.TRAINING, "Images in a step, instead of the preset's.")] = None,
    precision: Annotated[
        str | None, option(options.MACHINE, "auto, float32 or bfloat16, instead of the preset's.")
    ] = None,
    threads: options.Threads = None,
    device: Annotated[str, option(options.MACHINE, "auto (CUDA where there is one), cpu, cuda or cuda:N.")] = "auto",
    compiled: Annotated[bool, option(options.MACHINE, "Run the network through torch.compile.", "--compile")] = False,
    tensorboard: Annotated[bool, option(options.OUTPUT, "Write OUT/tensorboard as well.", "--tensorboard")] = False,
    as_json: options.Json = False,
    listed: Annotated[bool, option(options.OUTPUT, "Print the recipes, and train nothing.", "--list")] = False,
) -> None:
    """Train a network by a recipe.

    Killed and started again, the same command goes on where it stopped. Under torchrun, processes share each batch.
    """
    if listed:
        _list_recipes()
        return
    if not recipe or not data:
        raise ValueError("`recipe` and `data` must be given: saplab train RECIPE --data cifar10:DIR, or --list")
    from saplab.training.choice import Choice
    from saplab.training.place import joined

    choice = Choice(recipe, preset, network, rate, std, defense, epochs, batch, validation, precision)
    choice.resolve()  # refuses what does not fit before any file is read
    options.check_number("threads", threads)
    job = _job(choice, data, test, image_size)
    folder = out or Path("runs/train") / f"{job.choice.folder()}{f'-seed-{seed}' if seed else ''}"
    job = replace(job, out=folder, seed=seed, threads=threads, tensorboard=tensorboard)
    with joined(device, compiled) as place:
        model, finished = run(job, place)
        if place.is_first:
            finish(model, finished, job, as_json)


def _job(choice: "Choice", data: str, test: str, image_size: int) -> Job:
    """Load the images to train on and those to test on; without the latter, hold some of the former out."""
    from saplab.data.images import Cut
    from saplab.data.load import load_records

    cut, held_out = Cut(image_size, image_size), not (test or data.startswith("cifar10:"))
    size = image_size if any(Path(name).expanduser().is_dir() for name in (data, test) if name) else None
    images = load_records(data, cut=cut)
    _say(images.note)
    tested = None if held_out else load_records(test or data, "test", cut, images.classes)
    _say(tested.note if tested else "")
    recipe = choice.resolve()
    if held_out and choice.validation == 0:
        raise ValueError("`validation` must be at least 1 without `test`: some images must be there to test on")
    if held_out and not recipe.held_out:
        used = min(len(images), recipe.images or len(images))
        choice = replace(choice, validation=max(1, used // _SHARE_HELD_OUT))
    kind = _HELD_OUT_IMAGES if held_out else _GIVEN_IMAGES if test else TEST_IMAGES
    given = _named(test) if test else None
    return Job(choice, images, tested, Path(), _named(data), kind, test_source=given, image_size=size)


def _named(data: str) -> str:
    """Return what a command for others calls data: without the folders that it lies in here."""
    return CIFAR10 if data.startswith("cifar10:") else Path(data).expanduser().absolute().name


def _say(note: str) -> None:
    if note:
        tell(note)


def run(job: Job, place: "Place") -> "tuple[nn.Module, FinishedRun]":
    """Train, or read what was trained, and measure the network's accuracy."""
    from saplab.learning.progress import Progress, TensorBoard
    from saplab.training.loop import train as train_network

    recipe = job.choice.resolve().on(place.device)
    try:
        with watch("train", partial(_line, recipe.epochs), lambda r: f"epoch {r.epoch} of {recipe.epochs}") as progress:
            told = progress if place.is_first else Progress()
            told = TensorBoard(job.out / "tensorboard", told) if job.tensorboard and place.is_first else told
            model, history = train_network(recipe, job.data, job.test, job.out, job.seed, job.threads, told, place)
    except KeyboardInterrupt:
        tell(f"stopped; {job.out} keeps every finished epoch, and the same command goes on from there")
        raise
    return model.cpu(), _finished(model, history, job, recipe, place)


def _line(epochs: int, record: "EpochRecord") -> str:
    accuracies = {"train": record.train_accuracy, "test": record.test_accuracy,
                  "held out": record.held_out_accuracy, "under attack": record.robust_accuracy}  # fmt: skip
    shown = ", ".join(f"{name} {100 * value:.2f} %" for name, value in accuracies.items() if value is not None)
    speed = f"{record.images_per_second:.0f} images/s, {record.seconds:.0f} s"
    return f"epoch {record.epoch}/{epochs}: loss {record.train_loss:.4f}, {shown}, {speed}"


def _finished(
    model: "nn.Module", history: "list[EpochRecord]", job: Job, recipe: "Recipe", place: "Place"
) -> "FinishedRun":
    from saplab.models.packaged import CLEAN, Measured
    from saplab.training.card import FinishedRun
    from saplab.training.testing import count_correct, hold_out

    test = job.test or hold_out(job.data.chosen(slice(recipe.images)), recipe.held_out)[1]
    assert test is not None  # _job holds some out where there are no test images
    kind = "test" if job.test is not None else "held out"
    measured = Measured(CLEAN, 0.0, count_correct(model, test), len(test), kind)
    command, machine = job.command(place.world, place.compiled), place.described(job.threads)
    return FinishedRun(recipe, job.seed, history, command, machine, (measured,), job.tested_on, job.data.classes)


def finish(model: "nn.Module", finished: "FinishedRun", job: Job, as_json: bool) -> None:
    """Write weights, facts, card and plots, and say how accurate the network is."""
    from saplab.learning.plot import save_plot
    from saplab.models.identity import weights_digest
    from saplab.training.card import accuracy_text, export, wilson
    from saplab.training.plot import history_chart

    export(model, finished, job.out)
    save_plot(history_chart(finished.history, job.choice.folder()), job.out)
    clean = finished.measured[0]
    if as_json:
        counts = {"correct": clean.correct, "images": clean.images, "accuracy": clean.correct / clean.images}
        shown = {"out": str(job.out), **counts, "interval": wilson(clean), "digest": weights_digest(model)}
        typer.echo(json.dumps(shown))
    else:
        typer.echo(f"{job.out}: {accuracy_text(clean)}")


def _list_recipes() -> None:
    from saplab.training.recipes import RECIPES

    for (name, preset), recipe in RECIPES.items():
        typer.echo(f"{name} --preset {preset}")
        for field, value in recipe.described().items():
            if field not in ("name", "preset"):
                typer.echo(f"  {field}: {json.dumps(value)}")

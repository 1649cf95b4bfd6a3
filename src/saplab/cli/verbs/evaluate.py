"""``saplab evaluate``: accuracy against strength of one network under one attack or a battery, and a verdict."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli.running import AddressOption, EngineOption, WorkersOption

if TYPE_CHECKING:
    from torch import nn

    from saplab.cli.console import Console
    from saplab.data.dataset import Dataset
    from saplab.data.images import Cut

MODEL = (
    "A network of the package, an architecture with --weights, torchvision:NAME, timm:NAME, or package.module:factory."
)
DATA = "sample, cifar10:DIR, a path that ends in .npz, or a folder with a subfolder of pictures for each class."
ATTACK = (
    "A battery (paper, adaptive), or attacks joined by +: noise, fgsm, iterative, pgd, apgd, square, each with settings"
    " of its own where wanted (pgd:steps=40,samples=10,backward=identity,adversary=dense,lambda=64)."
)


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("evaluate")(evaluate)


def evaluate(
    model: Annotated[str, typer.Option(help=MODEL)] = "preact-resnet20-dense",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors, .pt, .pth or .th file.")] = None,
    data: Annotated[str, typer.Option(help=DATA)] = "sample",
    image_size: Annotated[
        int | None, typer.Option(help="Height and width that pictures are cut to; by default the network's own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first so many images.")] = None,
    defense: Annotated[str, typer.Option(help="sap:100; several joined by +; none by default.")] = "",
    sites: Annotated[str, typer.Option(help="Pattern of the sites to defend, such as 'stage3.*'.")] = "",
    attack: Annotated[str, typer.Option(help=ATTACK)] = "fgsm",
    adversary: Annotated[
        str, typer.Option(help="Whose gradient: self (the defended network) or dense (without the defence).")
    ] = "self",
    lambdas: Annotated[str, typer.Option("--lambda", help="Strengths in pixel steps of 0..255.")] = "0,1,2,4,8",
    samples: Annotated[int, typer.Option(help="Passes averaged for the gradient; the paper's 100 take long.")] = 20,
    backward: Annotated[str, typer.Option(help="mask (the paper's), probability or identity (BPDA).")] = "mask",
    average: Annotated[
        str, typer.Option(help="What is averaged: loss (the paper's), logits or probabilities.")
    ] = "loss",
    loss: Annotated[str, typer.Option(help="cross-entropy, margin or dlr.")] = "cross-entropy",
    passes: Annotated[int, typer.Option(help="Passes averaged for a prediction; the paper's 100 take long.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the defence's and, apart from them, the attack's draws.")] = 0,
    seeds: Annotated[int, typer.Option(help="Repeat a random network's evaluation with so many seeds.")] = 1,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Images computed, and saved, together.")] = 250,
    threads: Annotated[int | None, typer.Option(help="PyTorch's threads; by default its own choice.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one.")] = "auto",
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    address: AddressOption = None,
    baseline: Annotated[bool, typer.Option(help="Show the undefended network as well.")] = True,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")] = None,
    budget: Annotated[bool, typer.Option("--budget", help="Show what is planned, and what it costs, first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show that only.")] = False,
    fail_below: Annotated[
        float | None, typer.Option(help="End with exit code 1 where robust accuracy may be below this, in %.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout.")] = False,
) -> None:
    """Attack a network and measure its accuracy.

    At each strength λ, with 95 % intervals, a verdict and a report page.

    Killed and started again, the same command goes on where it stopped and ends with the same numbers.
    """
    from saplab.attacks import MonteCarlo
    from saplab.attacks.batteries import parse_adversaries, parse_strengths
    from saplab.cli.console import Console
    from saplab.cli.running import Job, compute_and_report, engine_of, prepare, show_plan
    from saplab.data.load import load_data
    from saplab.defenses.specs import is_random, parse_defenses
    from saplab.evaluation.plan import evaluation
    from saplab.models.zoo import load_model, weights_digest
    from saplab.runs.cell import Cell, Network

    parse_defenses(defense)
    adversaries = parse_adversaries(attack, MonteCarlo(samples, backward, average, loss), adversary)  # type: ignore[arg-type]
    strengths = parse_strengths(lambdas)
    if fail_below is not None and not 0 <= fail_below <= 100:
        raise ValueError(f"`fail_below` must be within [0, 100] %, got {fail_below:g}")
    console = Console(as_json)
    who = engine_of(engine, workers, address, threads, device)
    place = prepare("auto" if engine == "ray" else device, threads)
    network = load_model(model, weights).to(place)
    tell_of_random_weights(network, model, weights, console)
    dataset = load_data(data, cut_of(network, image_size), limit)

    defender = Network(model, weights_digest(network), defense, sites if defense else "")
    rounds = passes if is_random(defense) else 1
    cell = Cell(defender, defender, {"name": "noise"}, strengths, dataset.digest(), 0, count_of(dataset, limit), rounds,
                seed, precision)  # fmt: skip
    curves = evaluation(cell, adversaries, batch_size, baseline, seeds)
    title = f"{model}: accuracy against strength"
    job = Job(title, curves, {(model, defender.digest): network}, dataset, out, "evaluate", place, engine=who)
    if budget or dry_run:
        show_plan(job, console)
    if not dry_run:
        compute_and_report(job, console, fail_below)


def count_of(dataset: "Dataset", limit: int | None) -> int:
    """Give the number of images to use.

    Raises:
        ValueError: a `limit` below 1, or beyond the images there are.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be >= 1, got {limit}")
    if limit is not None and limit > len(dataset):
        raise ValueError(f"`limit` must be at most {len(dataset)}, the images of {dataset.name}, got {limit}")
    return limit or len(dataset)


def cut_of(network: "nn.Module", image_size: int | None) -> "Cut | None":
    """Say how pictures become the network's images: its own way, at its own size unless another is asked for."""
    from saplab.data.images import Cut
    from saplab.models.hub import Classifier

    if not isinstance(network, Classifier):
        return Cut(image_size, image_size) if image_size is not None else None
    view = network.view
    size = view.size if image_size is None else image_size
    return Cut(size, max(size, round(size * view.resize / view.size)), view.interpolation)


def tell_of_random_weights(network: "nn.Module", spec: str, weights: Path | None, console: "Console") -> None:
    """Say that a hub's network has learned nothing yet: nothing is ever downloaded."""
    from saplab.models.hub import Classifier

    if weights is None and isinstance(network, Classifier):
        console.say(f"{spec} has random weights, as nothing is downloaded; --weights FILE gives it trained ones")

"""``saplab evaluate``: accuracy against strength, of one network under one attack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import nn

    from saplab.cli.console import Console
    from saplab.data.dataset import Dataset
    from saplab.data.images import Cut
    from saplab.studies import Cell, Network

MODEL = (
    "A network of the package, an architecture with --weights, torchvision:NAME, timm:NAME, or package.module:factory."
)
DATA = "sample, cifar10:DIR, a path that ends in .npz, or a folder with a subfolder of pictures for each class."


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
    attack: Annotated[str, typer.Option(help="fgsm or noise.")] = "fgsm",
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
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Images computed, and saved, together.")] = 250,
    threads: Annotated[int | None, typer.Option(help="PyTorch's threads; by default its own choice.")] = None,
    baseline: Annotated[bool, typer.Option(help="Show the undefended network as well.")] = True,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout.")] = False,
) -> None:
    """Attack a network and measure its accuracy.

    At each strength λ, with 95 % intervals and a report page.

    Killed and started again, the same command goes on where it stopped and ends with the same numbers.
    """
    from dataclasses import replace

    import torch

    from saplab.attacks import MonteCarlo
    from saplab.cli.console import Console
    from saplab.cli.running import Job, compute_and_report
    from saplab.data.load import load_data
    from saplab.models.zoo import load_model, weights_digest
    from saplab.studies import Cell, Network
    from saplab.studies.plan import curve
    from saplab.studies.specs import attack_settings, defense_label, parse_defenses, parse_strengths

    parse_defenses(defense)
    if adversary not in ("self", "dense"):
        raise ValueError(f"`adversary` must be self or dense, got {adversary!r}")
    gradient = MonteCarlo(samples, backward, average, loss)  # type: ignore[arg-type]
    strengths = parse_strengths(lambdas)
    console = Console(as_json)
    network = load_model(model, weights)
    tell_of_random_weights(network, model, weights, console)
    dataset = load_data(data, cut_of(network, image_size), limit)
    if threads is not None:
        if threads < 1:
            raise ValueError(f"`threads` must be >= 1, got {threads}")
        torch.set_num_threads(threads)

    dense = Network(model, weights_digest(network))
    defended = replace(dense, defense=defense, sites=sites if defense else "")
    attacked = defended if adversary == "self" else dense
    cell = Cell(
        defended, attacked, attack_settings(attack, gradient if attacked.defense else replace(gradient, samples=1)),
        strengths, dataset.digest(), 0, _count(dataset, limit), passes if defense else 1, seed, precision,
    )  # fmt: skip
    curves = [curve(_label(cell), cell, batch_size)]
    if defense and baseline:
        plain = _undefended(cell, dense, attack_settings(attack, replace(gradient, samples=1)))
        curves.insert(0, curve(defense_label(""), plain, batch_size))
    title = f"{model}: accuracy against strength"
    job = Job(title, tuple(curves), {(model, dense.digest): network}, dataset, out, "evaluate")
    compute_and_report(job, console)


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


def _undefended(cell: "Cell", dense: "Network", settings: dict[str, object]) -> "Cell":
    from dataclasses import replace

    return replace(cell, defender=dense, adversary=dense, attack=settings, passes=1)


def _count(dataset: "Dataset", limit: int | None) -> int:
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be >= 1, got {limit}")
    if limit is not None and limit > len(dataset):
        raise ValueError(f"`limit` must be at most {len(dataset)}, the images of {dataset.name}, got {limit}")
    return limit or len(dataset)


def _label(cell: "Cell") -> str:
    """Name a curve by defender, and by what its adversary does where that is not the plain choice."""
    from saplab.studies.specs import defense_label

    label = defense_label(cell.defender.defense)
    if cell.attack["name"] == "noise":
        return f"{label}, random noise"
    if cell.adversary != cell.defender:
        return f"{label}, gradient of dense"
    return f"{label}, {cell.attack['backward']} backward" if cell.defender.defense else label

"""``saplab reproduce``: the paper's figures, studies beyond them, and one's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli.running import AddressOption, EngineOption, WorkersOption

if TYPE_CHECKING:
    from torch import nn

    from saplab.cli.console import Console
    from saplab.cli.running import Job
    from saplab.paper.study import Figure, Preset

NAMES = (
    "Figures (fig1a … fig6), table1, table1-beyond, erratum, erratum-adv, architectures, r-sweep, r-sites, paper"
    " (figures and table1), all, or a .toml file."
)

_MOST_NAMES = 6  # in a title


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("reproduce")(reproduce)


def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help=NAMES)],
    preset: Annotated[
        str, typer.Option(help="smoke (minutes), small (hours on two cores) or paper (a GPU).")
    ] = "small",
    data: Annotated[str, typer.Option(help="sample, cifar10:DIR or a path that ends in .npz.")] = "sample",
    limit: Annotated[int | None, typer.Option(help="Images, instead of the preset's number.")] = None,
    seed: Annotated[int, typer.Option(help="Of the defences' and, apart from them, the attacks' draws.")] = 0,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int | None, typer.Option(help="PyTorch's threads; by default its own choice.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one.")] = "auto",
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    address: AddressOption = None,
    outside: Annotated[
        str, typer.Option(help="architectures: a network from elsewhere, as --model or as NAME@FILE of its weights.")
    ] = "",
    agents: Annotated[
        Path | None, typer.Option(help="Table 1: folder with one trained agent a game, instead of the package's.")
    ] = None,
    sticky: Annotated[float, typer.Option(help="Table 1: chance that the emulator repeats an action.")] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/PRESET-NAMES.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be computed, and what it costs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout.")] = False,
) -> None:
    """Compute figures of the paper, or its Table 1, and judge its claims.

    Writes a page with every figure beside the paper's numbers, figures/ as SVG and PDF, and the numbers as CSV and
    Parquet.

    Killed and started again, the same command goes on where it stopped. Figures share the cells they have in common.
    """
    from saplab.cli.console import Console
    from saplab.cli.running import Job, engine_of, prepare, show_plan
    from saplab.cli.verbs.evaluate import count_of
    from saplab.cli.verbs.table1 import TableJob, reproduce_tables
    from saplab.data.load import load_data
    from saplab.evaluation.plan import study
    from saplab.models.zoo import weights_digest
    from saplab.paper.study import split_model, to_json
    from saplab.runs.cell import Cell, Network

    console = Console(as_json)
    who = engine_of(engine, workers, address, threads, device)
    place = prepare("auto" if engine == "ray" else device, threads)
    table = TableJob(tuple(names), preset, agents, sticky, seed, precision, place, who, out, dry_run)
    names, finished = reproduce_tables(table, console)
    if not names:
        raise typer.Exit(0 if finished else 1)
    chosen, amount = choose(names, preset, outside)
    chosen, models = networks_of(chosen, console)
    models = {spec: model.to(place) for spec, model in models.items()}
    digests = {spec: weights_digest(model) for spec, model in models.items()}
    dataset = load_data(data)
    wanted = count_of(dataset, limit or min(amount.images or len(dataset), len(dataset)))
    nobody = Network("", "")
    whole = Cell(nobody, nobody, {"name": "noise"}, (0.0,), dataset.digest(), 0, wanted, 1, seed, precision)
    curves = study(chosen, amount, whole, digests)
    networks = {(split_model(spec)[0], digests[spec]): model for spec, model in models.items()}
    folder = out or Path("runs") / f"{preset}-{'-'.join(Path(name).stem for name in names)}"
    listed = ", ".join(names) if len(names) <= _MOST_NAMES else f"{names[0]} to {names[-1]} ({len(names)})"
    title = f"{listed}: {preset}"
    job = Job(title, curves, networks, dataset, folder, "reproduce", place, to_json(chosen), who)
    show_plan(job, console) if dry_run else _compute_and_show(job, console)
    if not finished:
        raise typer.Exit(1)


def _compute_and_show(job: "Job", console: "Console") -> None:
    """Compute what is missing of a study, write its page and show how its claims fare.

    Raises:
        typer.Exit: with code 1 where cells failed.
    """
    from dataclasses import asdict

    from saplab.cli.running import compute
    from saplab.evaluation.rows import to_records
    from saplab.paper.report import write_study

    store, complete = compute(job, console)
    report = write_study(store.root)
    if console.json:
        claims = [{"figure": figure, **asdict(found)} for figure, found in report.judged]
        files = list(map(str, report.files))
        rows = to_records(report.summary.rows)
        console.emit_json({"out": str(store.root), "claims": claims, "rows": rows, "files": files})
    console.show_claims(report)
    console.say(f"\nReport: {store.root / 'report.html'}")
    if not complete:
        raise typer.Exit(1)


def networks_of(figures: "tuple[Figure, ...]", console: "Console") -> "tuple[tuple[Figure, ...], dict[str, nn.Module]]":
    """Load the networks of figures; leave out, and say so, the figures whose networks are not there.

    Raises:
        ValueError: no figure is left.
    """
    from saplab.evaluation.plan import study_models
    from saplab.models.zoo import load_model
    from saplab.paper.study import split_model

    models, missing = {}, {}
    for spec in study_models(figures):
        try:
            models[spec] = load_model(*split_model(spec))
        except ValueError as error:
            missing[spec] = str(error)
    left = tuple(figure for figure in figures if not missing.keys() & set(study_models([figure])))
    if not left:
        raise ValueError(next(iter(missing.values())))
    for figure in figures:
        if figure not in left:
            lacking = ", ".join(sorted(missing.keys() & set(study_models([figure]))))
            console.say(f"{figure.name} is left out: there is no network {lacking}")
    return left, models


def choose(names: list[str], preset: str, outside: str = "") -> "tuple[tuple[Figure, ...], Preset]":
    """Give the figures of these names, each once, and the preset; `outside` as for `figures`.

    Raises:
        ValueError: an unknown name or preset.
    """
    from saplab.paper.figures import figures
    from saplab.paper.study import PRESETS, read_study

    if preset not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {preset!r}")
    known = figures(PRESETS[preset], outside)
    groups = {"all": list(known), "paper": [name for name in known if name.startswith("fig")]}
    found: dict[str, Figure] = {}
    for name in names:
        if name.endswith(".toml"):
            found.update({figure.name: figure for figure in read_study(name)})
        elif name in known or name in groups:
            found.update({member: known[member] for member in groups.get(name, [name])})
        else:
            raise ValueError(f"`name` must be one of {', '.join([*groups, *known])} or a .toml file, got {name!r}")
    return tuple(found.values()), PRESETS[preset]

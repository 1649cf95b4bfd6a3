"""``saplab reproduce``: the paper's figures and Table 1, studies beyond them, and one's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli import options
from saplab.cli.console import Console
from saplab.cli.options import DATA, NETWORK, Place, option
from saplab.system.counts import check_count
from saplab.system.words import counted

if TYPE_CHECKING:
    from saplab.evaluation.evaluate import Job
    from saplab.paper.choice import Choice
    from saplab.paper.study import Figure
    from saplab.paper.table1 import Agents

NAMES = (
    "Figures (fig1a … fig6), table1, table1-beyond, erratum, erratum-adv, architectures, r-sweep, r-sites, paper"
    " (figures and table1), all, or a .toml file."
)
_MOST_NAMES = 6  # in a title
_Planned = Callable[[], bool | None]  # computes, and returns whether nothing failed, or shows what would be


def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help=NAMES)],
    preset: Annotated[
        str, option(options.JUDGING, "smoke (minutes), small (hours on two cores) or paper (a GPU).")
    ] = "small",
    data: Annotated[str, option(DATA, "sample, cifar10:DIR or a path that ends in .npz.")] = "sample",
    limit: Annotated[int | None, option(DATA, "Images, instead of the preset's number.")] = None,
    seed: options.Seed = 0,
    outside: Annotated[
        str, option(NETWORK, "architectures: a network from elsewhere, as --model or as NAME@FILE of its weights.")
    ] = "",
    agents: Annotated[
        Path | None, option(NETWORK, "Table 1: folder with one trained agent a game, instead of the package's.")
    ] = None,
    games: Annotated[str, option(DATA, "Table 1: these games alone, as in Assault,BankHeist.")] = "",
    seeds: Annotated[
        int | None, option(options.JUDGING, "Table 1: seeds of games and draws, instead of those of the preset.")
    ] = None,
    sticky: Annotated[float, option(DATA, "Table 1: chance that the emulator repeats an action.")] = 0.0,
    precision: options.Precision = "float32",
    threads: options.Threads = None,
    device: options.Device = "auto",
    engine: options.EngineName = "local",
    workers: options.Workers = None,
    address: options.Address = None,
    out: Annotated[Path | None, option(options.OUTPUT, "Run folder; by default runs/PRESET-NAMES.")] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Compute the paper's figures and Table 1; judge its claims.

    Writes a page with every figure beside the paper's numbers, figures/ as SVG and PDF, and the numbers as CSV and
    Parquet.

    Killed and started again, the same command goes on where it stopped. Figures share the cells they have in common.
    """
    from saplab.paper.choice import choose
    from saplab.paper.table1 import read_games

    chosen = choose(names, preset, outside)
    play = _Play(agents, read_games(games), seeds, sticky)
    if chosen.table == "" and play != _Play():
        raise ValueError(
            "`agents`, `games`, `seeds` and `sticky` are for a table of games: name table1 or table1-beyond too"
        )
    if seeds is not None:
        check_count("seeds", seeds)
    if outside and not any(figure.name == "architectures" for figure in chosen.figures):
        raise ValueError("`outside` is a network for the study architectures: name that too")
    if data != "sample" and not chosen.figures:
        raise ValueError("`data` are images, of which a table of games has none")
    if Path(data).expanduser().is_dir():
        raise ValueError(f"`data` must be sample, cifar10:DIR or a path that ends in .npz, got the folder {data}")
    place = options.ready_place(device, threads, engine, workers, address)
    if limit is not None and not chosen.figures:
        raise ValueError("`limit` counts images: how many games a table plays is a matter of `preset` and `seeds`")
    ask = _Ask(tuple(names), preset, seed, precision, place, out, dry_run, Console(as_json))
    planned = [_table(ask, chosen, play) if chosen.table else None,
               _figures(ask, chosen, data, limit) if chosen.figures else None]  # fmt: skip
    finished = [one() for one in planned if one is not None]  # all are planned, before anything is computed
    if False in finished:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Ask:
    """What figures and tables have in common: the options of the same names, and where all is computed and shown."""

    names: tuple[str, ...]
    preset: str
    seed: int
    precision: str
    place: Place
    out: Path | None
    dry_run: bool
    console: Console


@dataclass(frozen=True)
class _Play:
    """The options of a table of games alone."""

    agents: Path | None = None
    games: tuple[str, ...] = ()
    seeds: int | None = None
    sticky: float = 0.0

    @property
    def name(self) -> str:
        """Return what a run folder is called by, beside the preset and the table; more seeds go on in the same one."""
        sticky = (f"sticky-{self.sticky:g}",) if self.sticky else ()
        return "".join(f"-{part}" for part in (*self.games, *sticky))


def _figures(ask: _Ask, chosen: "Choice", data: str, limit: int | None) -> _Planned:
    """Plan figures of images."""
    from saplab.attacks import RandomNoise
    from saplab.cli.computing import command_line, show_plan
    from saplab.data.classes import matched
    from saplab.data.load import load_data
    from saplab.evaluation.evaluate import Job
    from saplab.paper.choice import TABLES, load_networks
    from saplab.paper.plan import study_curves
    from saplab.runs import ImageCell, Network, Request
    from saplab.runs.images import Images
    from saplab.runs.networks import rehearsed

    figures, networks, lacking = load_networks(chosen.figures)
    for name, specs in lacking.items():
        ask.console.say(f"{name} is left out: there is no network {', '.join(specs)}")
    every, words = matched(load_data(data), options.classes_of(next(iter(networks.values()), None)))
    if words:
        ask.console.say(words)
    usual = min(chosen.preset.images or len(every), len(every))
    images = options.first_images(every, usual if limit is None else limit)
    first = images.images[: chosen.preset.batch].to(ask.place.device)
    found = {spec: rehearsed(network.to(ask.place.device), first) for spec, network in networks.items()}
    notes = [f"{spec}: {note}" for spec, one in found.items() for note in one.notes]
    nobody = Network("", "")
    whole = ImageCell(
        defender=nobody, adversary=nobody, attack=RandomNoise(), eps=(0.0,), start=0, stop=len(images), seed=ask.seed,
        precision=ask.precision, device=ask.place.kind, data=images.digest(),
    )  # fmt: skip
    curves = study_curves(figures, chosen.preset, whole, {spec: one.network for spec, one in found.items()})
    names = [name for name in ask.names if name not in TABLES]
    listed = ", ".join(names) if len(names) <= _MOST_NAMES else f"{names[0]} to {names[-1]} ({len(names)})"
    request = Request(f"{listed}: {ask.preset}", curves, command_line(), images.classes, tuple(notes))
    known = {(one.network.model, one.network.digest): one.plain for one in found.values()}
    job = Job(request, Images(known, images, ask.place.device), ask.place.engine)
    other = f"-seed-{ask.seed}" if ask.seed else ""
    folder = ask.out or Path("runs") / f"{ask.preset}-{'-'.join(Path(name).stem for name in names)}{other}"
    if ask.dry_run:
        return partial(show_plan, job, folder, ask.console)
    return partial(_computed, job, figures, folder, ask.console)


def _table(ask: _Ask, chosen: "Choice", play: _Play) -> _Planned | None:
    """Plan Table 1 with the agents that there are; None without any, where it was not asked for by its own name."""
    from saplab.cli.computing import command_line
    from saplab.evaluation.evaluate import Job
    from saplab.paper.table1 import EFFORTS, load_agents, table_curves, table_figures
    from saplab.rl.atari import PAPER_GAMES
    from saplab.runs import Request
    from saplab.runs.games import Games
    from saplab.system.folder import inside

    try:
        agents = load_agents(play.agents, play.games or PAPER_GAMES)
        _tell_absent(agents, play.agents, ask.console)
    except ValueError as error:
        if chosen.named or play.games:
            raise ValueError(f"table1: {error}") from None
        ask.console.say(f"table1 is left out: {error}")
        return None
    effort = EFFORTS[ask.preset]
    figures = table_figures(agents, chosen.table == "table1-beyond", play.sticky, effort.whole)
    if play.seeds is not None:
        effort = replace(effort, seeds=play.seeds, more={}, rivals=None)
    curves = table_curves(
        figures, agents.named, effort, sticky=play.sticky, seed=ask.seed, precision=ask.precision,
        device=ask.place.kind,
    )  # fmt: skip
    request = Request(f"{chosen.table}: {ask.preset}", curves, command_line())
    job = Job(request, Games(agents.models(ask.place.device), ask.place.device), ask.place.engine)
    beside = inside(ask.out, chosen.table, folder=True) if ask.out and chosen.figures else ask.out
    other = f"{play.name}{f'-seed-{ask.seed}' if ask.seed else ''}"
    run = beside or Path("runs") / f"{ask.preset}-{chosen.table}{other}"
    if ask.dry_run:
        return partial(_show_games, job, run, effort.max_frames, ask.console)
    return partial(_computed, job, figures, run, ask.console)


def _tell_absent(agents: "Agents", folder: Path | None, console: Console) -> None:
    """Tell which games are left out for want of an agent; ValueError if all of them are."""
    if not agents.absent:
        return
    where = f"in {folder}" if folder else "in this installation"
    how = f"saplab train-agent {agents.absent[0]} --out {folder or 'runs/agents'}/{agents.absent[0]}"
    if not agents.networks:
        raise ValueError(f"no agent of its games is {where}; train one ({how}) and name their folder by --agents")
    console.say(f"left out, as no agent is {where}: {', '.join(agents.absent)} (to train one: {how})")


def _show_games(job: "Job", folder: Path, max_frames: int, console: Console) -> None:
    from saplab.cli.computing import plan_of, what_is_lacking
    from saplab.rl.atari import FRAME_SKIP

    job.inputs.rehearse(job.request.cells)
    for game in dict.fromkeys(curve.figure for curve in job.request.curves):
        console.say(f"{game}: " + "; ".join(curve.label for curve in job.request.curves if curve.figure == game))
    cells = what_is_lacking(job, folder, console)
    games, most = sum(cell.stop - cell.start for cell in cells), max_frames // FRAME_SKIP
    console.say(f"{counted(len(cells), 'cell')}, {counted(games, 'game')} of at most {most:,} actions each")
    if console.json:
        console.emit_json({**plan_of(job, folder, len(cells)), "games": games, "most_actions_of_a_game": most})


def _computed(job: "Job", figures: "Sequence[Figure]", folder: Path, console: Console) -> bool:
    """Compute what is missing of a study, write and show its report, and return whether nothing failed."""
    from saplab.cli.computing import fill, open_store
    from saplab.cli.results import show_study, tell_what_is_missing
    from saplab.paper.report import write_study
    from saplab.paper.study import save_figures

    store = open_store(job, folder, console)
    save_figures(store.root, figures)
    complete = fill(job, store, console)
    study = write_study(store, figures=figures)
    tell_what_is_missing(study.summary, console)
    show_study(study, console)
    return complete and not study.summary.damaged

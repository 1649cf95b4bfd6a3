"""``saplab play``: let an agent play full Atari games, defended or not, against an adversary."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli.running import AddressOption, EngineOption, WorkersOption
from saplab.cli.verbs.train_agent import GAME

if TYPE_CHECKING:
    from rich.table import Table

    from saplab.attacks.batteries import Adversary
    from saplab.cli.console import Console
    from saplab.paper.game_table import Line, Row
    from saplab.runs.cell import Network
    from saplab.runs.game_cell import GameCell
    from saplab.runs.games import Agents

AGENT = "A file of an agent (.safetensors, .pt, .pth, or a .zip of Stable-Baselines3); by default the packaged one."


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("play")(play)


def play(
    game: Annotated[str, typer.Argument(help=GAME)],
    agent: Annotated[Path | None, typer.Option(help=AGENT)] = None,
    defense: Annotated[list[str] | None, typer.Option(help="sap:100; may be given several times.")] = None,
    sites: Annotated[str, typer.Option(help="Pattern of the sites to defend.")] = "",
    attack: Annotated[
        str, typer.Option(help="fgsm, noise, pgd:steps=10, … as in evaluate; several joined by +.")
    ] = "fgsm",
    adversary: Annotated[
        str, typer.Option(help="Whose gradient: self (the agent that plays) or dense (without the defence).")
    ] = "self",
    lambdas: Annotated[str, typer.Option("--lambda", help="Strengths in pixel steps of 0..255.")] = "0,1,2",
    newest_frame: Annotated[bool, typer.Option(help="Attack the newest frame only, not the whole stack.")] = False,
    samples: Annotated[int, typer.Option(help="Passes averaged for the gradient of a defended agent.")] = 10,
    backward: Annotated[str, typer.Option(help="mask (the paper's), probability or identity (BPDA).")] = "mask",
    passes: Annotated[int, typer.Option(help="Passes averaged for an action of a defended agent.")] = 10,
    episodes: Annotated[int, typer.Option(help="Full games of each seed, played side by side.")] = 10,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    sticky: Annotated[float, typer.Option(help="Chance that the emulator repeats the previous action.")] = 0.0,
    epsilon: Annotated[float, typer.Option(help="Chance of a random action.")] = 0.05,
    max_frames: Annotated[int, typer.Option(help="Emulated frames after which a game is stopped.")] = 108_000,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int | None, typer.Option(help="PyTorch's threads; by default its own choice.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one.")] = "auto",
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    address: AddressOption = None,
    baseline: Annotated[bool, typer.Option(help="Let the agent play without defence as well.")] = True,
    video: Annotated[
        Path | None,
        typer.Option(help="Write a .gif of the last strength's first game (300 steps at most), for the last defence."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of finished games, which runs may share.")] = Path("runs/play"),
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout.")] = False,
) -> None:
    """Let an agent play Atari games under attack.

    Shows the mean points at each strength λ with 95 % intervals over games and seeds.

    Killed and started again, the same command goes on where it stopped and ends with the same numbers.
    """
    from dataclasses import replace

    from saplab.attacks import MonteCarlo
    from saplab.attacks.batteries import parse_adversaries, parse_strengths
    from saplab.cli.console import Console
    from saplab.cli.running import engine_of, fill, prepare
    from saplab.models.zoo import weights_digest
    from saplab.paper.game_table import rows, to_records
    from saplab.rl.agents import load_agent
    from saplab.rl.atari import rom_name
    from saplab.runs.cell import Network
    from saplab.runs.game_cell import NO_ATTACK, GameCell
    from saplab.runs.game_store import game_store
    from saplab.runs.games import Agents, rehearse

    if seeds < 1:
        raise ValueError(f"`seeds` must be >= 1, got {seeds}")
    who = engine_of(engine, workers, address, threads, device)
    place = prepare("auto" if engine == "ray" else device, threads)
    gradient = MonteCarlo(samples, backward)  # type: ignore[arg-type]
    attackers = parse_adversaries(attack, gradient, adversary)  # type: ignore[arg-type]
    strengths, rom, console = parse_strengths(lambdas), rom_name(game), Console(as_json)
    network = load_agent(rom, agent)
    plain = Network(f"agent:{rom}", weights_digest(network))
    first = GameCell(
        rom, plain, plain, NO_ATTACK, 0.0, 0, episodes, passes=passes, newest=newest_frame, sticky=sticky,
        epsilon=epsilon, max_frames=max_frames, precision=precision,
    )  # fmt: skip
    defended = [replace(plain, defense=text, sites=sites) for text in defense or []]
    lines = _planned(first, defended, attackers, strengths, seeds, baseline)
    agents = Agents({(plain.model, plain.digest): network.to(place)}, place)
    store = game_store(out, [cell for one in lines for cell in one.all_cells])
    rehearse(store.wanted.values(), agents)
    store.make()
    finished = fill(store, store.survey(), agents, who, console, "games", "episodes")
    found = list(rows(store, lines))
    show_games(console, found)
    if video is not None:
        _film(video, list(lines[-1].cells.values())[-1][0], agents, console)
    if as_json:
        console.emit_json({"game": rom, "digest": plain.digest, "out": str(out), "rows": to_records(found)})
    if not finished:
        raise typer.Exit(1)


def _planned(
    first: "GameCell", defended: "Sequence[Network]", attackers: "Sequence[Adversary]", strengths: Sequence[float],
    seeds: int, baseline: bool,
) -> "list[Line]":  # fmt: skip
    """Plan the lines of every attacker: of the agent without defence, and of each defended one compared with it."""
    plain = [_line(first, first.defender, one, strengths, seeds) for one in attackers]
    lines = [
        _line(first, agent, one, strengths, seeds, against)
        for agent in defended
        for one, against in zip(attackers, plain, strict=True)
    ]
    return _distinct([*plain, *lines] if baseline or not lines else lines)


def _line(
    first: "GameCell", defender: "Network", attacker: "Adversary", strengths: Sequence[float], seeds: int,
    against: "Line | None" = None,
) -> "Line":  # fmt: skip
    """Plan the games of one agent, defended or not, against one attacker as it is for that defence."""
    from dataclasses import replace

    from saplab.attacks.batteries import settings_of
    from saplab.paper.game_table import line

    one = attacker.against(defender.defense)
    attacked = replace(defender, defense="", sites="") if one.whose == "dense" else defender
    cell = replace(
        first, defender=defender, adversary=attacked, attack=settings_of(one.attack), strength=1.0,
        passes=first.passes if defender.defense else 1,
    )  # fmt: skip
    return line(cell, one.strengths or strengths, seeds, against)


def _distinct(lines: "Sequence[Line]") -> "list[Line]":
    """Give each line once: without a defence, several attacks may be one and the same.

    Raises:
        ValueError: two different lines would have the same name in the table.
    """
    found: dict[str, Line] = {}
    for one in lines:
        same = found.setdefault(one.label, one)
        if [cell.digest for cell in same.all_cells] != [cell.digest for cell in one.all_cells]:
            raise ValueError(f"`attack` gives two different lines the name {one.label!r}; ask for them one by one")
    return list(found.values())


def show_games(console: "Console", rows: "Sequence[Row]") -> None:
    """Print a table for each game, and what its words mean."""
    for game in dict.fromkeys(row.game for row in rows):
        console.show(table_of([row for row in rows if row.game == game]))
    games = " or ".join(str(n) for n in sorted({row.score.games for row in rows}))
    console.show(f"{games} games each; ± is the 95 % interval. λ: how far the attacker may move each pixel, in steps of"
                 " 0..255.\nIn brackets: change against the original at the same λ; – where that one's mean cannot be"
                 " told from 0.", style="dim")  # fmt: skip


def table_of(rows: "Sequence[Row]") -> "Table":
    """Lay out the rows of one game, agents against strengths, the fewer of them as columns."""
    from rich.table import Table
    from rich.text import Text

    labels = list(dict.fromkeys(row.label for row in rows))
    strengths = sorted({row.strength for row in rows})
    texts = {(row.label, row.strength): Text(_cell_text(row)) for row in rows}
    table = Table(title=f"Points in {rows[0].game}", title_justify="left")
    if len(labels) <= len(strengths):
        table.add_column("λ", justify="right", no_wrap=True)
        for label in labels:
            table.add_column(Text(label), justify="right")
        for strength in strengths:
            table.add_row(f"{strength:g}", *(texts.get((label, strength), "–") for label in labels))
        return table
    table.add_column("", min_width=20)
    for strength in strengths:
        table.add_column(f"λ = {strength:g}", justify="right")
    for label in labels:
        table.add_row(Text(label), *(texts.get((label, strength), "–") for strength in strengths))
    return table


def _cell_text(row: "Row") -> str:
    lines = [str(row.score)]
    if row.compared:
        change = row.change
        lines.append("(–)" if change is None else f"({change.percent:+.1f} % [{change.low:+.1f}, {change.high:+.1f}])")
    if row.paper is not None:
        lines.append(f"paper {row.paper:+.1f} %")
    return "\n".join(lines)


def _film(path: Path, cell: "GameCell", agents: "Agents", console: "Console") -> None:
    """Play the cell's first game once more, and write its clip."""
    from dataclasses import replace

    from saplab.paper.game_table import label_of
    from saplab.rl.atari import action_names
    from saplab.rl.video import Clip
    from saplab.runs.games import compute

    title = f"{cell.game}, {label_of(cell)}, lambda = {cell.strength:g}"
    clip = Clip(title, action_names(cell.game), cell.strength)
    compute(replace(cell, stop=cell.start + 1), agents, watch=clip.watch)
    clip.save(path)
    console.say(f"{path}: {len(clip.frames)} steps")

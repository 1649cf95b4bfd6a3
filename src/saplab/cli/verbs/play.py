"""``saplab play``: let an agent play full Atari games, defended or not, against an adversary."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from saplab.cli import options
from saplab.cli.console import Console
from saplab.cli.options import DATA, DEFENCE, JUDGING, NETWORK, OUTPUT, option
from saplab.cli.verbs.train_agent import GAME

if TYPE_CHECKING:
    from saplab.runs import Curve, GameCell
    from saplab.runs.games import Games

AGENT = "A file of an agent (.safetensors, .pt, .pth, or a .zip of Stable-Baselines3); by default the packaged one."


def play(
    game: Annotated[str, typer.Argument(help=GAME)],
    agent: Annotated[Path | None, option(NETWORK, AGENT)] = None,
    sticky: Annotated[float, option(DATA, "Chance that the emulator repeats the previous action.")] = 0.0,
    epsilon: Annotated[float, option(DATA, "Chance of a random action.")] = 0.05,
    max_frames: Annotated[int, option(DATA, "Emulated frames after which a game is stopped.")] = 108_000,
    defense: Annotated[
        list[str] | None,
        option(
            DEFENCE,
            "As of `saplab evaluate`, such as sap:100; given several times, each is played.",
            "--defense",
            "--defence",
        ),
    ] = None,
    sites: options.Sites = "",
    attack: options.GameAttack = None,
    adversary: options.Adversary = "self",
    lambdas: options.GameLambda = None,
    eps: Annotated[
        str, option(options.ATTACK, "The same in the unit of [0, 1] images, such as 2/255,8/255.", "--eps")
    ] = "",
    newest_frame: Annotated[bool, option(options.ATTACK, "Attack the newest frame only, not the whole stack.")] = False,
    samples: options.Samples = 10,
    backward: options.Backward = "mask",
    passes: options.Passes = 10,
    episodes: Annotated[int, option(JUDGING, "Full games of each seed, played side by side.")] = 10,
    seeds: options.Seeds = 3,
    baseline: options.Baseline = True,
    precision: options.Precision = "float32",
    threads: options.Threads = None,
    device: options.Device = "auto",
    engine: options.EngineName = "local",
    workers: options.Workers = None,
    address: options.Address = None,
    video: Annotated[
        Path | None,
        option(OUTPUT, "Write a .gif of the last radius's first game (300 steps at most), for the last defence."),
    ] = None,
    out: Annotated[Path, option(OUTPUT, "Folder of finished games, which runs may share.")] = Path("runs/play"),
    as_json: options.Json = False,
) -> None:
    """Let an agent play Atari games under attack.

    Shows the mean points at each strength λ with 95 % intervals over games and seeds.

    Killed and started again, the same command goes on where it stopped and ends with the same numbers.
    """
    from saplab.attacks import FGSM, MonteCarlo, Traits, parse_attackers
    from saplab.cli.computing import command_line, fill, open_store
    from saplab.cli.results import tell_what_is_missing
    from saplab.defenses import parse_defenses
    from saplab.evaluation.evaluate import Job
    from saplab.evaluation.game_plan import Played, plan_games
    from saplab.evaluation.games import write_games
    from saplab.evaluation.text import rows_text
    from saplab.models.identity import network_digest
    from saplab.rl.agents import load_agent
    from saplab.rl.atari import rom_name
    from saplab.rl.play import Rules
    from saplab.rl.video import check_clip
    from saplab.runs import GameCell, Network, Request
    from saplab.runs.games import Games

    if seeds < 1:
        raise ValueError(f"`seeds` must be >= 1, got {seeds}")
    options.check_sites(sites, any(defense or ()))
    gradient = MonteCarlo(samples, backward)  # type: ignore[arg-type]
    # Agents are plain ReLU networks; every frame is attacked, so the hundreds of steps that an image may take are none.
    agents = Traits(random=True, saturated=False, blind=False, mixture=False)
    parsed = parse_attackers("+".join(attack or [options.ATTACK_OF_GAMES]), gradient, adversary)  # type: ignore[arg-type]
    attackers = tuple(one for attacker in parsed if (one := attacker.fitted(agents)) is not None)
    radii = options.radii(lambdas, eps, options.GAME_STRENGTHS)
    place = options.ready_place(device, threads, engine, workers, address)
    rom, console = rom_name(game), Console(as_json)
    Rules(rom, sticky, epsilon, max_frames)  # refuses what cannot be played, before anything is
    if video is not None:
        check_clip(video)
    network = load_agent(rom, agent)
    plain = Network(f"agent:{rom}", network_digest(network))
    places = (sites,) if sites else ()
    whole = GameCell(
        defender=plain, adversary=plain, attack=None, eps=(0.0,), start=0, stop=episodes, passes=passes,
        precision=precision, device=place.kind, game=rom, newest=newest_frame, sticky=sticky, epsilon=epsilon,
        max_frames=max_frames,
    )  # fmt: skip
    defended = [replace(plain, defenses=parse_defenses(text), sites=places) for text in defense or []]
    curves = plan_games(Played(whole, FGSM(gradient), radii, seeds), defended, attackers, baseline)
    games = Games({(plain.model, plain.digest): network.to(place.device)}, place.device)
    job = Job(Request(f"{rom}: points under attack", curves, command_line()), games, place.engine)
    store = open_store(job, out, console)
    complete = fill(job, store, console)
    report = write_games(store)
    summary, rows = report.summary, report.summary.rows
    tell_what_is_missing(summary, console)
    console.say(rows_text(rows))
    if report.files:
        console.say(f"\nReport: {report.files[0]}")
    if video is not None:
        _film(video, curves[-1], games, console)
    if as_json:
        records = [row.record() for row in rows]
        console.emit_json({"game": rom, "digest": plain.digest, "out": str(out), "rows": records})
    if not complete or summary.damaged:
        raise typer.Exit(1)


def _film(path: Path, curve: "Curve", games: "Games", console: Console) -> None:
    """Play the first game of a curve's last radius once more, and write its clip."""
    from saplab.attacks import strength_of
    from saplab.rl.atari import action_names
    from saplab.rl.video import Clip

    cell = cast("GameCell", next(iter(curve.cells_at(curve.eps[-1]))))
    strength = strength_of(curve.eps[-1])
    title = f"{cell.game}, {curve.label}, lambda = {strength:g}".replace("×", "x")
    clip = Clip(title, action_names(cell.game), strength)
    games.play(replace(cell, stop=cell.start + 1), watch=clip.watch)
    clip.save(path)
    console.say(f"{path}: {len(clip.frames)} steps")

"""``saplab train-agent``: train an agent for an Atari game by Double DQN."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli import options
from saplab.cli.computing import command_line
from saplab.cli.console import Console
from saplab.cli.training import watch
from saplab.system.words import counted

if TYPE_CHECKING:
    from saplab.models.qnetwork import QNetwork
    from saplab.rl.agents import Facts
    from saplab.rl.play import Rules
    from saplab.rl.recipes import AgentRecipe
    from saplab.rl.records import AgentRecord

GAME = "A game's name: Assault, BankHeist, or any of the ROMs that ale-py holds."
_FIVE_MINUTES = 18_000  # frames, after which a game that is scored during training is stopped
_TRAINING_SEED = 1_000_000  # of the games that are scored during training, apart from those of the final score


def train_agent(
    game: Annotated[str, typer.Argument(help=GAME)],
    preset: Annotated[str, options.option(options.TRAINING, "paper, small (one CPU core), gpu or smoke.")] = "small",
    out: Annotated[
        Path | None,
        options.option(
            options.OUTPUT, "Folder for the run; by default runs/agents/GAME, and -PRESET of another than small."
        ),
    ] = None,
    seed: Annotated[
        int, options.option(options.TRAINING, "Of the first weights, the games, random actions and samples.")
    ] = 0,
    steps: Annotated[
        int | None,
        options.option(
            options.TRAINING, "Agent steps, instead of the preset's; may be changed to end a run elsewhere."
        ),
    ] = None,
    reward_scale: Annotated[
        float,
        options.option(
            options.TRAINING, "Points that count as a reward of 1, where rewards are clipped (Bowling: 10)."
        ),
    ] = 1.0,
    n_step: Annotated[
        int | None,
        options.option(options.TRAINING, "Rewards summed before a return bootstraps, instead of the preset's."),
    ] = None,
    sticky: Annotated[
        float, options.option(options.DATA, "Chance that the emulator repeats the previous action.")
    ] = 0.0,
    episodes: Annotated[
        int, options.option(options.JUDGING, "Full games for the final score, and for that of random play.")
    ] = 30,
    threads: Annotated[int | None, options.option(options.MACHINE, "PyTorch's and the emulators' threads.")] = None,
    device: Annotated[
        str,
        options.option(options.MACHINE, "Where the network learns: cpu, cuda, …; auto takes a GPU where there is one."),
    ] = "cpu",
    tensorboard: Annotated[
        bool, options.option(options.OUTPUT, "Write OUT/tensorboard as well.", "--tensorboard")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train an agent for an Atari game by Double DQN.

    Writes model.safetensors, agent.json, card.md, and history.jsonl with its plot.

    Killed and started again, the same command goes on from its last checkpoint.
    """
    from saplab.learning.plot import save_plot
    from saplab.learning.progress import TensorBoard
    from saplab.metrics.scores import mean_score
    from saplab.models.qnetwork import new_network
    from saplab.rl.atari import Games, rom_name
    from saplab.rl.loop import train_agent as run
    from saplab.rl.play import Rules
    from saplab.rl.plot import history_chart
    from saplab.rl.recipes import find_recipe
    from saplab.system.counts import check_count, check_seed
    from saplab.system.machine import usable_cores
    from saplab.system.precision import resolve_precision

    if episodes < 2:
        raise ValueError(f"`episodes` must be >= 2 for an interval, got {episodes}")
    check_count("episodes", episodes)
    check_seed(seed)
    threads = usable_cores() if threads is None else threads
    place = options.ready_place(device, threads).device
    usual = find_recipe(preset)
    steps = usual.steps if steps is None else steps
    n_step = usual.n_step if n_step is None else n_step
    recipe = replace(usual, steps=steps, n_step=n_step, reward_scale=reward_scale)
    rom, console = rom_name(game), Console(as_json)
    folder = out or Path("runs/agents") / (rom if preset == "small" else f"{rom}-{preset}")
    games = Games(rom, recipe.games, sticky, threads=threads)
    network = new_network(games.actions, seed).to(place)

    def score(learned: "QNetwork", step: int) -> list[float]:
        rules = Rules(rom, sticky, max_frames=_FIVE_MINUTES)
        return _points(learned, rules, recipe.score_episodes, _TRAINING_SEED + step)

    def name(record: "AgentRecord") -> str:
        return f"step {record.step:,} of {recipe.steps:,}"

    with watch(rom, lambda record: f"{name(record)}: {_numbers(record)}", name) as progress:
        told = TensorBoard(folder / "tensorboard", progress) if tensorboard else progress
        task = f"{rom}, sticky {sticky:g}"
        history = run(recipe, games, network, folder, seed, task=task, score=score, progress=told)
    save_plot(history_chart(history, f"{rom}, {preset}"), folder)
    machine = f"{counted(threads, 'thread')}, {place}, {resolve_precision(recipe.precision, place)}"
    facts = _export(network, recipe, history, Rules(rom, sticky), folder, episodes, seed, machine)
    own, random = mean_score(facts.scores), mean_score(facts.random_scores)
    console.say(f"{folder}: {own} points over {episodes} games after {facts.age}; random play {random}")
    if as_json:
        console.emit_json({"out": str(folder), **vars(facts)})


def _export(
    network: "QNetwork", recipe: "AgentRecipe", history: "Sequence[AgentRecord]", rules: "Rules", folder: Path,
    episodes: int, seed: int, machine: str,
) -> "Facts":  # fmt: skip
    """Write the agent's files, with the scores of what is in them and of random play."""
    import torch

    from saplab.rl.agents import Facts, pack, unpack, write_agent
    from saplab.rl.card import write_card
    from saplab.rl.records import best_record
    from saplab.system.machine import processor

    content = pack(network)
    scores = tuple(_points(unpack(content), rules, episodes, seed=0))
    random = tuple(_points(network, replace(rules, epsilon=1.0), episodes, seed=0))
    digest = hashlib.sha256(content).hexdigest()
    best = best_record(history) if recipe.keep_best else None
    facts = Facts(
        rules.game, recipe.preset, history[-1].step, seed, digest, scores, random, best.step if best else None
    )
    command, machine = command_line(), f"{processor()}, {machine}; PyTorch {torch.__version__}"
    write_agent(folder, content, facts, write_card(facts, recipe, history, rules, command, machine))
    return facts


def _points(network: "QNetwork", rules: "Rules", episodes: int, seed: int) -> list[float]:
    from saplab.defenses.prediction import BATCH
    from saplab.rl.play import play
    from saplab.rl.player import Player

    player = Player(copy.deepcopy(network).cpu().eval())
    parts = (range(start, min(start + BATCH, episodes)) for start in range(0, episodes, BATCH))
    return [episode.score for part in parts for episode in play(player, rules, part, seed)]


def _numbers(record: "AgentRecord") -> str:
    from saplab.metrics.scores import mean_score

    games = f"{counted(record.games, 'game')} at ε {record.epsilon:.2f}"
    parts = [
        "" if record.loss is None else f"loss {record.loss:.4f}",
        "" if record.score is None else f"{record.score:.1f} points in {games}",
        f"evaluation {mean_score(record.evaluation)}" if record.evaluation else "",
        f"{record.steps_per_second:.0f} steps/s, {record.seconds:.0f} s",
    ]
    return ", ".join(filter(None, parts))

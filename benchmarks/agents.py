"""Time the parts of training an agent (acting, sampling, learning, the emulators) and all of them together.

    python benchmarks/agents.py [--game assault] [--preset small] [--batch N] [--precision float32] [--threads 1]
        [--steps 8000]

Prints the median time of each part, and the steps per second of a short run of the preset, with another batch or
precision if these are given. Needs the extra `rl`.
"""

import argparse
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from suite.timing import Work, time_in_turn

from saplab.models.qnetwork import new_network
from saplab.rl.atari import Games
from saplab.rl.ddqn import Learner
from saplab.rl.loop import train_agent
from saplab.rl.recipes import AgentRecipe, find_recipe
from saplab.rl.replay import Replay
from saplab.system.memory import keep_freed_memory
from saplab.system.precision import PRECISION_CHOICES

ROUNDS = 30


def main() -> None:
    """Read the options, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="assault")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, help="transitions of an update; by default the preset's")
    parser.add_argument("--precision", choices=PRECISION_CHOICES, help="by default the preset's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8_000, help="of the short run, after its warm-up")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does
    recipe = find_recipe(options.preset)
    recipe = replace(recipe, batch=options.batch or recipe.batch, precision=options.precision or recipe.precision)
    print(f"{options.game}, {recipe.preset}, {options.threads} threads, load {os.getloadavg()[0]:.1f} before")
    for name, times in time_in_turn(parts(recipe, options.game, options.threads), ROUNDS).items():
        print(f"{name}: {times.spread(1e-3).median:.2f} ms")
    steps_per_second = together(recipe, options.game, options.threads, options.steps)
    print(f"together: {steps_per_second:.0f} steps/s, load {os.getloadavg()[0]:.1f} after")


def parts(recipe: AgentRecipe, game: str, threads: int) -> dict[str, Work]:
    """Return the work of each part."""
    games = Games(game, recipe.games, threads=threads)
    step = games.reset(list(range(recipe.games)))
    draws = np.random.default_rng(0)
    learner = Learner(new_network(games.actions, 0), recipe)
    replay = Replay(40_000, recipe.games, (84, 84), recipe.gamma, recipe.n_step)
    nothing, actions = np.zeros(recipe.games, np.bool_), draws.integers(games.actions, size=recipe.games)
    for _ in range(40_000 // recipe.games):
        replay.add(draws.integers(256, size=(recipe.games, 84, 84)).astype(np.uint8), nothing, actions,
                   np.zeros(recipe.games), nothing, nothing)  # fmt: skip
    batch = replay.sample(recipe.batch, draws)
    return {
        f"act, {recipe.games} games": lambda: learner.values(step.stacks),
        f"emulate a step of {recipe.games} games": lambda: games.step(actions),
        f"sample {recipe.batch}": lambda: replay.sample(recipe.batch, draws),
        f"update on {recipe.batch}": lambda: learner.update(batch, recipe.lr),
    }


def together(recipe: AgentRecipe, game: str, threads: int, steps: int) -> float:
    """Return the steps per second of a short run while it learns."""
    unit = max(recipe.update_every, recipe.games)
    warmup, steps = 64 * unit, -(-steps // unit) * unit
    short = replace(
        recipe, steps=warmup + steps, warmup=warmup, replay=100_000, record_every=warmup, score_every=warmup
    )
    games = Games(game, recipe.games, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        history = train_agent(short, games, new_network(games.actions, 0), Path(folder))
    learning = [record for record in history if record.loss is not None]
    return statistics.median(record.steps_per_second for record in learning)


if __name__ == "__main__":
    main()

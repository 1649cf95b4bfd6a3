"""A toy game for the tests of agents: catch falling balls with a paddle. Frames are 6×5; random play misses most."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from saplab.rl.atari import TimeStep
from saplab.rl.loop import train_agent
from saplab.rl.recipes import Adam, AgentRecipe

HEIGHT, WIDTH, LIVES, LIMIT = 6, 5, 3, 60
RECIPE = AgentRecipe(
    "toy", steps=6_000, games=4, update_every=4, batch=32, replay=4_000, warmup=400, target_every=200,
    optimizer=Adam(1e-8), lr=1e-3, gamma=0.95, n_step=3, epsilon_end=0.05, epsilon_steps=3_000, record_every=2_000,
    score_every=2_000,
)  # fmt: skip


class Catch:
    """E games side by side, with the rules of `saplab.rl.atari.Games`: a game begins anew one step after its end.

    Each ball caught is a point, each one missed costs a point and one of three lives. A game is over when all lives
    are lost, and stopped after 60 steps.
    """

    actions = 3

    def __init__(self, count):
        self.count = count

    def reset(self, seeds):
        self.draws = [np.random.default_rng(seed) for seed in seeds]
        self.ball, self.paddle, self.lives, self.time = (np.zeros((self.count, n), int) for n in (2, 1, 1, 1))
        self.stacks = np.zeros((self.count, 4, HEIGHT, WIDTH), np.uint8)
        self.over = np.zeros(self.count, bool)
        for game in range(self.count):
            self._begin(game)
        nothing = np.zeros(self.count, bool)
        return TimeStep(self.stacks.copy(), np.zeros(self.count), nothing, nothing, self.lives[:, 0].copy())

    def send(self, actions):
        self.sent = actions.copy()

    def receive(self):
        rewards = np.zeros(self.count)
        terminated, truncated = np.zeros(self.count, bool), np.zeros(self.count, bool)
        for game, action in enumerate(self.sent):
            if self.over[game]:
                self._begin(game)
                continue
            rewards[game] = self._move(game, action)
            terminated[game] = self.lives[game, 0] == 0
            truncated[game] = self.time[game, 0] >= LIMIT and not terminated[game]
        self.over = terminated | truncated
        return TimeStep(self.stacks.copy(), rewards, terminated, truncated, self.lives[:, 0].copy())

    def _begin(self, game):
        self.lives[game], self.time[game], self.stacks[game], self.paddle[game] = LIVES, 0, 0, 2
        self._drop(game)
        self._show(game)

    def _move(self, game, action):
        self.time[game] += 1
        self.paddle[game] = np.clip(self.paddle[game] + action - 1, 0, WIDTH - 1)
        self.ball[game, 0] += 1
        landed = self.ball[game, 0] == HEIGHT - 1
        caught = landed and self.ball[game, 1] == self.paddle[game, 0]
        if landed:
            self.lives[game] -= not caught
            self._drop(game)
        self._show(game)
        return (1.0 if caught else -1.0) if landed else 0.0

    def _drop(self, game):
        self.ball[game] = 0, self.draws[game].integers(WIDTH)

    def _show(self, game):
        self.stacks[game] = np.roll(self.stacks[game], -1, 0)
        self.stacks[game, -1] = 0
        self.stacks[game, -1, *self.ball[game]] = 255
        self.stacks[game, -1, HEIGHT - 1, self.paddle[game, 0]] = 255


class CatchNetwork(nn.Module):
    """Stacks (N, 4, 6, 5) -> values (N, 3): two layers, with the two entrances of a Q-network."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(4 * HEIGHT * WIDTH, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, stacks):
        return self.layers(stacks).float()

    def of_bytes(self, stacks):
        return self(stacks / 255)


def caught(network, games=8):
    """Play games greedily, and give their points."""
    toys = Catch(games)
    step, points, over = toys.reset(range(100, 100 + games)), np.zeros(games), np.zeros(games, bool)
    while not over.all():
        with torch.no_grad():
            toys.send(network.of_bytes(torch.from_numpy(step.stacks)).argmax(1).numpy())
        step = toys.receive()
        points += np.where(over, 0, step.rewards)
        over |= step.over
    return points.tolist()


@cache
def trained():
    """Train a network once for all tests; give it, and the records of its training."""
    network = CatchNetwork()
    with tempfile.TemporaryDirectory() as folder:
        history = train_agent(RECIPE, Catch(4), network, Path(folder), score=lambda learned, step: caught(learned))
    return network, history

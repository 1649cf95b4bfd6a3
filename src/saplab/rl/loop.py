"""The loop that trains agents: play a step of each game, learn while the emulators compute it, record and save.

Draws are a function of (seed, purpose, step), so that an uninterrupted run is a function of its request on one machine
with one number of threads. A resumed run has the weights, targets, optimiser and draws of an uninterrupted one, but
neither its games, which begin anew, nor its replay buffer, which the current policy fills again: it is another run of
the same kind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saplab.learning.checkpoint import Diverged, RunFolder
from saplab.learning.denormals import flushed_denormals
from saplab.learning.progress import Progress
from saplab.models.qnetwork import QNetwork
from saplab.rl.atari import Games
from saplab.rl.ddqn import Learner, epsilon_greedy
from saplab.rl.recipes import AgentRecipe
from saplab.rl.records import AgentRecord, best_record
from saplab.rl.replay import Replay
from saplab.system.counts import check_seed

NUMERICS: Final = 2  # raise it when the same request would give other weights
REFILL: Final = 100_000  # at most so many steps of play fill the replay buffer of a resumed run
_BEST: Final = "best."  # before the names of the tensors of the weights that scored most
_ACT, _SAMPLE, _GAMES, _REFILL = 1, 2, 3, 4

Evaluate = Callable[[QNetwork, int], Sequence[float]]


def train_agent(
    recipe: AgentRecipe, games: Games, network: QNetwork, out: Path, seed: int = 0, *, task: str = "",
    score: Evaluate | None = None, progress: Progress[AgentRecord] | None = None,
) -> list[AgentRecord]:  # fmt: skip
    """Train `network` in place by Double DQN, beginning with the last checkpoint in `out` if there is one.

    Args:
        games: `recipe.games` of them.
        network: with its first weights, on the device where it is to learn.
        out: folder for ``checkpoint.safetensors`` and ``history.jsonl``.
        seed: of the games, the random actions and the samples; 0..2^63-1.
        task: what is played; a checkpoint of another task is refused.
        score: plays the games of an evaluation with the network after the given number of steps, and returns their
            points. Where the recipe keeps the best, `network` ends with the weights that scored most, while the
            checkpoint holds the last.

    Returns the record of every stretch of ``recipe.record_every`` steps. Raises ValueError for an argument out of range
    or another run's checkpoint, and `Diverged` when the loss is no longer finite; checkpoints stay as they are.
    """
    check_seed(seed)
    if games.count != recipe.games:
        raise ValueError(f"`games` must be {recipe.games} for this recipe, got {games.count}")
    run = _Run(recipe, games, network, RunFolder(out, request_of(recipe, task, seed), AgentRecord), seed)
    progress = progress or Progress()
    progress.on_start(run.history, run.step, recipe.steps)
    while run.step < recipe.steps:
        with flushed_denormals():
            run.advance()
        progress.on_step(run.step, {})
        if run.step % recipe.record_every == 0 or run.step == recipe.steps:
            progress.on_record(run.record(score))
    if recipe.keep_best and run.best:
        network.load_state_dict(run.best)
    return run.history


class _Run:
    def __init__(
        self, recipe: AgentRecipe, games: Games, network: QNetwork, folder: RunFolder[AgentRecord], seed: int
    ) -> None:
        self.recipe, self.games, self.folder, self.seed = recipe, games, folder, seed
        self.learner = Learner(network, recipe)
        tensors, self.history = folder.open()
        if tensors:
            self.learner.restore(tensors)
        self.best = {name.removeprefix(_BEST): tensor for name, tensor in tensors.items() if name.startswith(_BEST)}
        self.step = self.history[-1].step if self.history else 0
        seeds = self._draws(_GAMES, self.step).integers(2**31, size=games.count)
        self.now = games.reset([int(s) for s in seeds])
        shape = (self.now.stacks.shape[2], self.now.stacks.shape[3])
        self.replay = Replay(recipe.replay, games.count, shape, recipe.gamma, recipe.n_step)
        self.first = np.ones(games.count, np.bool_)
        self.points = np.zeros(games.count)
        self._begin_stretch()
        self._refill()
        self._begin_stretch()

    def advance(self) -> None:
        """Play one step in each game; learn, if updates are due, while the emulators compute it."""
        actions = self._send(self._draws(_ACT, self.step))
        if self.step >= self.recipe.warmup:
            for step in range(self.step, self.step + self.games.count):
                if step % self.recipe.update_every == 0:
                    self._learn(step)
        self._receive(actions)
        self.step += self.games.count

    def record(self, score: Evaluate | None) -> AgentRecord:
        """Describe the stretch since the last record, save a checkpoint, and begin a new stretch."""
        played = time.perf_counter()
        before = self.history[-1].step if self.history else 0
        due = self.step % self.recipe.score_every == 0 or self.step == self.recipe.steps
        points = tuple(score(self.learner.network, self.step)) if score and due else ()
        recipe = self.recipe
        record = AgentRecord(
            self.step, time.perf_counter() - self.begun, (self.step - before) / (played - self.begun),
            recipe.epsilon(self.step), recipe.rate(self.step), _mean(self.losses), len(self.scores),
            _mean(self.scores), points,
        )  # fmt: skip
        self.history.append(record)
        if recipe.keep_best and best_record(self.history) is record:
            self.best = {name: tensor.clone() for name, tensor in self.learner.network.state_dict().items()}
        best = {f"{_BEST}{name}": tensor for name, tensor in self.best.items()}
        self.folder.save(self.learner.tensors() | best, self.history)
        self._begin_stretch()
        return record

    def _begin_stretch(self) -> None:
        self.begun = time.perf_counter()
        self.losses: list[float] = []
        self.scores: list[float] = []

    def _send(self, draws: np.random.Generator) -> NDArray[np.int64]:
        values = self.learner.values(self.now.stacks)
        actions = epsilon_greedy(values, self.recipe.epsilon(self.step), draws)
        self.games.send(actions)
        return actions

    def _learn(self, step: int) -> None:
        batch = self.replay.sample(self.recipe.batch, self._draws(_SAMPLE, step))
        loss = self.learner.update(batch, self.recipe.rate(step))
        if not np.isfinite(loss):
            kept = f"{self.folder.path} keeps what was saved"
            raise Diverged(f"training stopped at step {step}: the loss is {loss}; {kept}")
        self.losses.append(loss)
        if step % self.recipe.target_every == 0:
            self.learner.copy_to_target()

    def _receive(self, actions: NDArray[np.int64]) -> None:
        """Take in the outcome of the step, and store what was seen and done before it."""
        before, self.now = self.now, self.games.receive()
        lost_life = self.now.lives < before.lives
        self.replay.add(
            before.stacks[:, -1], self.first, actions, np.clip(self.now.rewards / self.recipe.reward_scale, -1, 1),
            self.now.terminated | lost_life, before.over,
        )  # fmt: skip
        self.first = before.over
        self.points = np.where(self.first, 0, self.points + self.now.rewards)
        self.scores.extend(self.points[self.now.over].tolist())

    def _refill(self) -> None:
        """Fill the replay buffer of a resumed run, if it has anything left to learn, by play that counts as no step."""
        draws = self._draws(_REFILL, self.step)
        wanted = min(self.step, REFILL, self.replay.capacity) if self.step < self.recipe.steps else 0
        while len(self.replay) < wanted:
            self._receive(self._send(draws))

    def _draws(self, purpose: int, step: int) -> np.random.Generator:
        key = np.array([self.seed, purpose], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, step], np.uint64)))


def request_of(recipe: AgentRecipe, task: str, seed: int) -> dict[str, Any]:
    """Return what a checkpoint must have been made for, in JSON's own types.

    The number of steps is not in it: a run may end earlier or later than it was begun for, and its learning rate then
    follows the new end.
    """
    fields = asdict(recipe)
    del fields["steps"]
    fields["optimizer"]["kind"] = type(recipe.optimizer).__name__
    return {"numerics": NUMERICS, "task": task, "seed": seed, "recipe": fields}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None

"""The loop that trains agents: play a step of each game, learn while the emulators compute it, record and save.

Draws are a function of (seed, purpose, step), so that a run is a function of its request on one machine with one number
of threads, as long as nothing stops it. A run that goes on from a checkpoint has the weights, targets, optimiser and
draws of an unbroken one, but neither its games, which begin anew, nor its replay buffer, which is filled again by the
policy as it is; it is another run of the same kind.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saplab.models.qnetwork import QNetwork
from saplab.rl.atari import Step
from saplab.rl.checkpoint import BEST, AgentRecord, best_record, load_checkpoint, put_back, save_checkpoint
from saplab.rl.ddqn import Learner, epsilon_greedy
from saplab.rl.progress import Progress, Silent
from saplab.rl.recipes import AgentRecipe
from saplab.rl.replay import Replay
from saplab.system.files import remove_leftovers, write_atomically

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.jsonl"
NUMERICS: Final = 1  # raise it when the same request would give other weights
REFILL: Final = 100_000  # most steps of play that fill the replay buffer of a continued run
_ACT, _SAMPLE, _GAMES, _REFILL = 1, 2, 3, 4

Score = Callable[[QNetwork, int], Sequence[float]]


class Diverged(ValueError):
    """The loss stopped being a finite number."""


class GameSet(Protocol):
    """What the loop plays: `Games`, or anything like it."""

    count: int
    actions: int

    def reset(self, seeds: Sequence[int]) -> Step:
        """Begin new games."""

    def send(self, actions: NDArray[np.int64]) -> None:
        """Let a step begin."""

    def receive(self) -> Step:
        """Wait for the step."""


@dataclass
class _Stretch:
    """What happened since the last record."""

    begin: float = field(default_factory=time.perf_counter)
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def train_agent(
    recipe: AgentRecipe,
    games: GameSet,
    network: QNetwork,
    out: Path,
    seed: int = 0,
    *,
    task: str = "",
    score: Score | None = None,
    progress: Progress | None = None,
) -> list[AgentRecord]:
    """Train `network` in place by Double DQN, from the last checkpoint in `out` where there is one.

    Args:
        recipe: how.
        games: `recipe.games` of them.
        network: with its first weights, on the device where it shall learn.
        out: folder for ``checkpoint.safetensors`` and ``history.jsonl``.
        seed: of the games, the random actions and the samples; 0..2^63-1.
        task: what is played, for the checkpoint: another task's is refused.
        score: plays evaluation games with the network after so many steps, and gives their points; where the recipe
            keeps the best, `network` ends with the weights that scored most, and the checkpoint goes on from the last.
        progress: told of every step and record.

    Returns:
        the record of every stretch of ``recipe.record_every`` steps.

    Raises:
        ValueError: an argument out of range, or `out` holds another run's checkpoint (which stays as it is).
        Diverged: the loss is no longer finite; the last good checkpoint stays.
        OSError: a file could not be written; the checkpoint before it stays.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be in 0 .. 2**63 - 1, got {seed}")
    if games.count != recipe.games:
        raise ValueError(f"`games` must be {recipe.games} for this recipe, got {games.count}")
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    run = _Run(recipe, games, network, out, seed, task, progress or Silent())
    while run.step < recipe.steps:
        run.advance(learn=run.step >= recipe.warmup)
        if run.step % recipe.record_every == 0 or run.step == recipe.steps:
            run.record(score)
    if recipe.keep_best and run.best:
        network.load_state_dict(run.best)
    return run.history


class _Run:
    """A run's moving parts."""

    def __init__(
        self, recipe: AgentRecipe, games: GameSet, network: QNetwork, out: Path, seed: int, task: str,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.recipe, self.games, self.out, self.seed, self.progress = recipe, games, out, seed, progress
        self.request = request_of(recipe, task, seed)
        self.learner = Learner(network, recipe)
        self.best: dict[str, Tensor] = {}
        self.history = self._restored()
        self.step = self.history[-1].step if self.history else 0
        seeds = self._draws(_GAMES, self.step).integers(2**31, size=games.count)
        self.now = games.reset([int(s) for s in seeds])
        shape = (self.now.stacks.shape[2], self.now.stacks.shape[3])
        self.replay = Replay(recipe.replay, games.count, shape, recipe.gamma, recipe.n_step)
        self.first = np.ones(games.count, np.bool_)
        self.points = np.zeros(games.count)
        self._refill()
        self.stretch = _Stretch()
        progress.on_start(recipe, self.history)

    def advance(self, learn: bool) -> None:
        """Play one step in each game; learn, where an update is due, while the emulators compute it."""
        actions = self._send(self._draws(_ACT, self.step))
        if learn and self.step % self.recipe.update_every == 0:
            self._learn()
        self._receive(actions)
        self.step += self.games.count
        self.progress.on_step(self.step)

    def record(self, score: Score | None) -> None:
        """Describe the stretch since the last record, save a checkpoint, and begin a new stretch."""
        played = time.perf_counter()
        before = self.history[-1].step if self.history else 0
        due = self.step % self.recipe.score_every == 0 or self.step == self.recipe.steps
        points = tuple(score(self.learner.network, self.step)) if score and due else ()
        part, recipe = self.stretch, self.recipe
        record = AgentRecord(
            self.step, time.perf_counter() - part.begin, (self.step - before) / (played - part.begin),
            recipe.epsilon(self.step), recipe.rate(self.step), _mean(part.losses), len(part.scores),
            _mean(part.scores), points,
        )  # fmt: skip
        self.history.append(record)
        if recipe.keep_best and best_record(self.history) is record:
            self.best = {name: tensor.clone() for name, tensor in self.learner.network.state_dict().items()}
        save_checkpoint(self.out / CHECKPOINT, self.request, self.learner, self.history, self.best)
        write_history(self.out / HISTORY, self.history)
        self.progress.on_record(record)
        self.stretch = _Stretch()

    def _send(self, draws: np.random.Generator) -> NDArray[np.int64]:
        values = self.learner.values(self.now.stacks)
        actions = epsilon_greedy(values, self.recipe.epsilon(self.step), draws)
        self.games.send(actions)
        return actions

    def _learn(self) -> None:
        batch = self.replay.sample(self.recipe.batch, self._draws(_SAMPLE, self.step))
        loss = self.learner.update(batch, self.recipe.rate(self.step))
        if not np.isfinite(loss):
            raise Diverged(f"training stopped at step {self.step}: the loss is {loss}; {self.out} keeps what was saved")
        self.stretch.losses.append(loss)
        if self.step % self.recipe.target_every == 0:
            self.learner.copy_to_target()

    def _receive(self, actions: NDArray[np.int64]) -> None:
        """Take the step's outcome, and store what was seen and done before it."""
        before, self.now = self.now, self.games.receive()
        lost_life = self.now.lives < before.lives
        self.replay.add(
            before.stacks[:, -1], self.first, actions, np.clip(self.now.rewards / self.recipe.reward_scale, -1, 1),
            self.now.terminated | lost_life, before.over,
        )  # fmt: skip
        self.first = before.over
        self.points = np.where(self.first, 0, self.points + self.now.rewards)
        self.stretch.scores.extend(self.points[self.now.over].tolist())

    def _refill(self) -> None:
        """Fill a continued run's replay buffer by play that counts as no step."""
        self.stretch, draws = _Stretch(), self._draws(_REFILL, self.step)
        while len(self.replay) < min(self.step, REFILL, self.recipe.replay):
            self._receive(self._send(draws))

    def _restored(self) -> list[AgentRecord]:
        path = self.out / CHECKPOINT
        if not path.exists():
            if (self.out / HISTORY).exists():
                raise ValueError(f"{self.out} holds a training history without a checkpoint; choose another folder")
            return []
        tensors, history = load_checkpoint(path, self.request)
        put_back(self.learner, tensors)
        self.best = {name.removeprefix(BEST): tensor for name, tensor in tensors.items() if name.startswith(BEST)}
        write_history(self.out / HISTORY, history)
        return history

    def _draws(self, purpose: int, step: int) -> np.random.Generator:
        """Give the random numbers of a purpose at a step."""
        key = np.array([self.seed, purpose], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, step], np.uint64)))


def write_history(path: Path, history: Sequence[AgentRecord]) -> None:
    """Write one JSON object a line for each record."""
    write_atomically(path, "".join(json.dumps(asdict(record)) + "\n" for record in history).encode())


def request_of(recipe: AgentRecipe, task: str, seed: int) -> dict[str, Any]:
    """Give what a checkpoint must have been made for, as JSON's own types.

    The number of steps is not in it: a run may be ended earlier or later than it was begun for, and its learning rate
    then follows the new end.
    """
    fields = asdict(recipe)
    optimizer = {"kind": type(recipe.optimizer).__name__, **fields["optimizer"]}
    named = {name: value for name, value in fields.items() if name != "steps"}
    return {"numerics": NUMERICS, "task": task, "seed": seed, "recipe": {**named, "optimizer": optimizer}}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None

"""Full games for a score: a player, plain or defended, and an adversary that changes what it sees.

An episode is a function of (rules, player, adversary, seed, episode number), up to rounding that may differ with the
number of episodes in a batch: its game, its random actions and all draws of its passes have streams of their own. Where
a defence draws once for all examples, as on weights, the episodes of a seed share that draw at each step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saplab.defenses.prediction import BATCH
from saplab.rl.adversary import Adversary
from saplab.rl.atari import FRAME_SKIP, MAX_FRAMES, Games
from saplab.rl.player import STEPS, Player

_GAME, _ACT = 1, 2


@dataclass(frozen=True)
class Rules:
    """How `Games` of at most 131,068 frames are played for a score, with random actions of probability `epsilon`."""

    game: str
    sticky: float = 0.0
    epsilon: float = 0.05
    max_frames: int = MAX_FRAMES

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"`epsilon` must be within [0, 1], got {self.epsilon}")
        if not 1 <= self.max_frames <= FRAME_SKIP * (STEPS - 1):
            raise ValueError(f"`max_frames` must be within 1..{FRAME_SKIP * (STEPS - 1)}, got {self.max_frames}")


@dataclass(frozen=True)
class Episode:
    """One full game: its number, its points as the game counts them, and the agent's steps in it."""

    number: int
    score: float
    steps: int


@dataclass(frozen=True)
class Moment:
    """One step of all games that are still being played; tensors are on the player's device.

    Attributes:
        episodes: (N,) their numbers.
        stacks, seen: (N, 4, 84, 84) in [0, 1], as the games showed them and as the player saw them.
        values: (N, actions) that the player acted on.
        actions: (N,) taken, random ones included.
        scores: (N,) points before the step.
    """

    episodes: tuple[int, ...]
    stacks: Tensor
    seen: Tensor
    values: Tensor
    actions: NDArray[np.int64]
    scores: tuple[float, ...]


Watch = Callable[[Moment], None]


def play(
    player: Player, rules: Rules, episodes: Sequence[int], seed: int = 0, adversary: Adversary | None = None,
    watch: Watch | None = None,
) -> list[Episode]:  # fmt: skip
    """Play full games, all at the same time.

    Args:
        episodes: numbers of the games to play, ascending, at most a batch of them; with `seed` they decide no-ops and
            random actions.
        adversary: changes what the player sees; none by default.
        watch: gets every step.

    Raises ValueError for other numbers, for a player whose actions are not the game's, and as `Games` does.
    """
    numbers = list(episodes)
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 0:
        raise ValueError(f"`episodes` must be ascending numbers >= 0, at least one, got {numbers}")
    if len(numbers) > BATCH:
        raise ValueError(f"`episodes` must be at most {BATCH} at a time, got {len(numbers)}")
    going = [_Seat(rules, number, seed) for number in numbers]
    done: list[Episode] = []
    device = player.device
    memory: Tensor | None = None  # what the player saw last, where an adversary changes only the newest frame
    while going:
        stacks = torch.from_numpy(np.concatenate([seat.stacks for seat in going])).to(device).float().div_(255)
        given = stacks if memory is None else torch.cat((memory[:, 1:], stacks[:, -1:]), 1)
        observations = torch.tensor([seat.number * STEPS + seat.steps for seat in going])
        seen = adversary.perturb(given, observations) if adversary else given
        values = player.values(seen, observations)
        if values.shape[1] != going[0].actions:
            raise ValueError(f"the agent has {values.shape[1]} actions, but {rules.game} has {going[0].actions}")
        actions = [seat.choose(row) for seat, row in zip(going, values.cpu().numpy(), strict=True)]
        if watch is not None:
            points = tuple(seat.score for seat in going)
            watch(Moment(tuple(seat.number for seat in going), stacks, seen, values, np.array(actions), points))
        for seat, action in zip(going, actions, strict=True):
            seat.send(action)
        ended = np.array([seat.receive() for seat in going])
        done += [Episode(seat.number, seat.score, seat.steps) for seat, end in zip(going, ended, strict=True) if end]
        going = [seat for seat, end in zip(going, ended, strict=True) if not end]
        memory = seen[torch.from_numpy(~ended).to(device)] if adversary and adversary.newest else None
    return sorted(done, key=lambda episode: episode.number)


class _Seat:
    def __init__(self, rules: Rules, number: int, seed: int) -> None:
        self.number, self.score, self.steps = number, 0.0, 0
        self._epsilon = rules.epsilon
        self._games = Games(rules.game, 1, rules.sticky, rules.max_frames)
        self.actions = self._games.actions
        self._draws = _draws(seed, _ACT, number)
        self.stacks = self._games.reset([int(_draws(seed, _GAME, number).integers(2**31))]).stacks

    def choose(self, values: NDArray[np.float32]) -> int:
        """Return the greedy action, or with probability ε a random one."""
        random = int(self._draws.integers(len(values)))
        return random if self._draws.random() < self._epsilon else int(values.argmax())

    def send(self, action: int) -> None:
        self._games.send(np.array([action]))

    def receive(self) -> bool:
        """Take in what the action led to, and return whether the game has ended."""
        step = self._games.receive()
        self.stacks, self.steps = step.stacks, self.steps + 1
        self.score += float(step.rewards[0])
        return bool(step.over[0])


def _draws(seed: int, purpose: int, episode: int) -> np.random.Generator:
    key = np.array([seed, (purpose << 32) | episode], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))

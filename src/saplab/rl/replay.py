"""The replay buffer: each frame is stored once, and stacks are put together as they are sampled."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saplab.models.qnetwork import STACK
from saplab.rng.compiled import scalar_kernel

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Transitions:
    """Transitions over m ≤ n steps: what was seen and done, what it paid, and what was seen after it.

    Attributes:
        stacks, next_stacks: (B, 4, H, W) uint8, o_t and o_{t+m}.
        actions: (B,) int64, a_t.
        returns: (B,) float32, Σ_{i<m} γ^i r_{t+i}.
        discounts: (B,) float32: γ^m, or 0 where the m-th step was terminal.
    """

    stacks: Tensor
    actions: Tensor
    returns: Tensor
    discounts: Tensor
    next_stacks: Tensor


class Replay:
    """The most recent transitions of E games that are played side by side.

    A slot holds the newest frame of an observation, the action taken there, its reward and what followed. The last
    observation of a game has a slot without an action, from which a truncated game bootstraps. Stacks do not reach back
    beyond the beginning of a game (frames are zeros there, as in the games themselves), but over a lost life they do.

    Args:
        capacity: slots, over all games; each takes H·W bytes. ValueError if they are too few to sample from.
        games: E, games side by side.
        shape: (H, W) of a frame.
        gamma, n_step: discount, and the most steps that a transition spans.
    """

    def __init__(self, capacity: int, games: int, shape: tuple[int, int], gamma: float, n_step: int = 1) -> None:
        self._slots = capacity // games  # of each game
        self.capacity = self._slots * games
        if n_step < 1:
            raise ValueError(f"`n_step` must be >= 1, got {n_step}")
        if self._slots < STACK + n_step + 2:
            raise ValueError(f"`capacity` must be >= {games * (STACK + n_step + 2)} for {games} games, got {capacity}")
        self._shape, self._gamma, self._n_step = shape, gamma, n_step
        self._frames = np.zeros((games, self._slots, shape[0] * shape[1]), np.uint8)
        self._actions = np.zeros((games, self._slots), np.int64)
        self._rewards = np.zeros((games, self._slots), np.float32)
        self._terminal = np.zeros((games, self._slots), np.bool_)
        self._last = np.zeros((games, self._slots), np.bool_)
        self._age = np.zeros((games, self._slots), np.uint8)
        self._count = 0

    def __len__(self) -> int:
        """Return the number of slots in use."""
        return min(self._count, self._slots) * len(self._frames)

    def add(
        self, frames: NDArray[np.uint8], first: Flags, actions: NDArray[np.int64], rewards: NDArray[Any],
        terminal: Flags, last: Flags,
    ) -> None:  # fmt: skip
        """Store one slot of each game.

        Args:
            frames: (E, H, W), the newest frame of each observation.
            first: (E,) whether the observation is the first of a game.
            terminal: (E,) whether no reward counts after that: the game was over, or a life lost.
            last: (E,) whether the observation is the last of a game, so that nothing was done there.
        """
        slot, before = self._count % self._slots, (self._count - 1) % self._slots
        self._frames[:, slot] = frames.reshape(len(frames), -1)
        self._actions[:, slot], self._rewards[:, slot] = actions, rewards
        self._terminal[:, slot], self._last[:, slot] = terminal, last
        self._age[:, slot] = np.where(first | (self._count == 0), 0, np.minimum(self._age[:, before], STACK) + 1)
        self._count += 1

    def sample(self, size: int, draws: np.random.Generator) -> Transitions:
        """Draw `size` transitions, each stored one equally likely, with replacement."""
        games, times = self._drawn(size, draws)
        returns, discounts, spans = self._outcomes(games, times)
        stacks, next_stacks = (self._stacks(games, t) for t in (times, times + spans))
        actions = torch.from_numpy(self._actions[games, times % self._slots])
        return Transitions(stacks, actions, torch.from_numpy(returns), torch.from_numpy(discounts), next_stacks)

    def _drawn(self, size: int, draws: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw slots with an action: their games (size,), and their times (size,) counted from the first slot ever."""
        oldest = max(0, self._count - self._slots)
        low, high = oldest + (STACK - 1 if oldest else 0), self._count - self._n_step
        if high - low < 2:  # of two neighbours, at most one is a game's last
            raise ValueError(f"the replay buffer holds {len(self)} slots, too few to sample from")
        games, times = draws.integers(len(self._frames), size=size), draws.integers(low, high, size)
        while (wrong := self._last[games, times % self._slots]).any():
            games[wrong] = draws.integers(len(self._frames), size=wrong.sum())
            times[wrong] = draws.integers(low, high, wrong.sum())
        return games, times

    def _outcomes(self, games: NDArray[np.int64], times: NDArray[np.int64]) -> tuple[Any, Any, NDArray[np.int64]]:
        """Return the returns, discounts and numbers of steps m of n-step transitions, which end where a game does."""
        returns, discounts = np.zeros(len(times), np.float32), np.ones(len(times), np.float32)
        spans, going = np.zeros(len(times), np.int64), np.ones(len(times), np.bool_)
        for i in range(self._n_step):
            slots = (times + i) % self._slots
            going &= ~self._last[games, slots]
            returns += np.where(going, discounts * self._rewards[games, slots], 0)
            discounts[going] *= np.float32(self._gamma)
            spans += going
            ended = going & self._terminal[games, slots]
            discounts[ended] = 0
            going &= ~ended
        return returns, discounts, spans

    def _stacks(self, games: NDArray[np.int64], times: NDArray[np.int64]) -> Tensor:
        """Return stacks (B, 4, H, W), stored channels last, which convolutions on CPUs prefer."""
        slots = times % self._slots
        packed = np.empty((len(times), self._frames.shape[2]), np.uint32)
        _pack(packed, self._frames, games, slots, self._age[games, slots])
        pixels = torch.from_numpy(packed.view(np.uint8)).view(len(times), *self._shape, STACK)
        return pixels.permute(0, 3, 1, 2)


@scalar_kernel
def _pack(out: Any, frames: Any, games: Any, slots: Any, ages: Any) -> None:
    """Pack each stack's four pixels of one place into a little-endian word: (B, H·W) uint32."""
    for b in range(len(out)):
        game, slot, age = frames[games[b]], slots[b], ages[b]
        for p in range(out.shape[1]):
            out[b, p] = np.uint32(game[slot, p]) << np.uint32(24)
        for k in range(1, 4):
            if k <= age:
                old, shift = game[(slot - k) % len(game)], np.uint32(24 - 8 * k)
                for p in range(out.shape[1]):
                    out[b, p] |= np.uint32(old[p]) << shift

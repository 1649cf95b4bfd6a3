"""How an agent is trained, as data.

``paper`` is appendix A of Dhillon et al. 2018, which follows Mnih et al. 2015; ``small`` and ``gpu`` are saplab's own,
for one or two CPU cores and for a GPU (docs/deviations.md lists what they change, and why). ``smoke`` only shows that
the parts work together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from saplab.system.counts import check_count
from saplab.system.precision import PrecisionChoice


@dataclass(frozen=True)
class RMSProp:
    """The centred RMSProp of Mnih et al. 2015, whose "momentum" is the decay of both running means.

    They add 0.01 to the squared gradient under the root, of gradients summed over the batch. For mean gradients of a
    batch of 32, and outside the root as in PyTorch, that is `eps` = √0.01 / 32.
    """

    decay: float = 0.95
    eps: float = 0.1 / 32

    def build(self, parameters: Iterator[Tensor], lr: float) -> torch.optim.Optimizer:
        """Return PyTorch's optimiser."""
        return torch.optim.RMSprop(parameters, lr, alpha=self.decay, eps=self.eps, centered=True)


@dataclass(frozen=True)
class Adam:
    """Adam with PyTorch's usual constant.

    The 1.5e-4 of Hessel et al. 2018 ("Rainbow"), who use another loss, is larger than most gradients of the Huber loss
    where rewards are rare, and nearly stops the learning there.
    """

    eps: float = 1e-8

    def build(self, parameters: Iterator[Tensor], lr: float) -> torch.optim.Optimizer:
        """Return PyTorch's optimiser."""
        return torch.optim.Adam(parameters, lr, eps=self.eps, fused=True)


@dataclass(frozen=True)
class AgentRecipe:
    """Everything about the training of an agent but its game, seed and machine.

    A step is one action of one game, four emulated frames.

    Attributes:
        steps: of the whole training, over all games.
        update_every: steps between two updates; a multiple of `games`, or a divisor of it: then several updates follow
            each step of the games.
        batch, replay: transitions in one update, and transitions kept.
        warmup: steps before the first update, played as all others: with the random action's probability of that step.
        target_every: steps between two copies of the network into its target; a multiple of `update_every`.
        optimizer, lr: of gradient descent; `lr_end` is the fraction of `lr` that a linear decay over all steps ends at.
        reward_scale: points that count as a reward of 1; what remains beyond ±1 is clipped.
        n_step: steps of a transition before it bootstraps.
        epsilon_end, epsilon_steps: the probability of a random action falls linearly from 1 to `epsilon_end` over
            `epsilon_steps` steps.
        clip: largest Euclidean norm of the gradient; None for no limit.
        precision: of the network's arithmetic but for its last layer; the weights are always float32. ``auto`` is
            bfloat16 where the device has instructions for it, float32 elsewhere.
        record_every: steps between two records and checkpoints; a multiple of `update_every` and of `games`.
        score_every, score_episodes: steps between two evaluations during training, and the games of each.
        keep_best: end with the weights that scored most in an evaluation, as Hessel et al. 2018 do, not the last.
    """

    preset: str
    steps: int
    games: int
    update_every: int
    batch: int
    replay: int
    warmup: int
    target_every: int
    optimizer: RMSProp | Adam
    lr: float
    lr_end: float = 1.0
    gamma: float = 0.99
    reward_scale: float = 1.0
    n_step: int = 1
    epsilon_end: float = 0.1
    epsilon_steps: int = 1_000_000
    clip: float | None = None
    precision: PrecisionChoice = "float32"
    record_every: int = 50_000
    score_every: int = 1_000_000
    score_episodes: int = 10
    keep_best: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.reward_scale < math.inf:
            raise ValueError(f"`reward_scale` must be > 0 and finite, got {self.reward_scale}")
        every, games = self.update_every, self.games
        if every < 1 or (every % games and games % every):
            raise ValueError(f"`update_every` must be a multiple or a divisor of {games} games, got {every}")
        units = {
            "n_step": 1, "target_every": every, "record_every": max(every, games), "score_every": self.record_every,
            "steps": games,
        }  # fmt: skip
        for name, unit in units.items():
            value = getattr(self, name)
            if value < unit or value % unit:
                raise ValueError(f"`{name}` must be a positive multiple of {unit}, got {value}")
            check_count(name, value)

    def epsilon(self, step: int) -> float:
        """Return the probability of a random action at a step."""
        return max(self.epsilon_end, 1 - (1 - self.epsilon_end) * step / self.epsilon_steps)

    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""
        return self.lr * (1 - (1 - self.lr_end) * step / self.steps)


_PAPER = AgentRecipe(
    "paper", steps=100_000_000, games=1, update_every=4, batch=32, replay=1_000_000, warmup=50_000,
    target_every=10_000, optimizer=RMSProp(), lr=2.5e-4,
)  # fmt: skip
_SMALL = AgentRecipe(
    "small", steps=2_000_000, games=32, update_every=16, batch=32, replay=500_000, warmup=10_000, target_every=4_000,
    optimizer=Adam(), lr=3e-4, lr_end=0.05, n_step=10, epsilon_end=0.05, epsilon_steps=200_000, clip=10.0,
    precision="auto", record_every=20_000, score_every=100_000, keep_best=True,
)  # fmt: skip
_GPU = replace(
    _SMALL, preset="gpu", steps=20_000_000, games=128, update_every=128, batch=1024, replay=1_000_000,
    warmup=128 * 400, target_every=128 * 80, lr=5e-4, n_step=3, epsilon_end=0.02, epsilon_steps=1_000_000,
    record_every=128 * 2_000, score_every=128 * 10_000,
)  # fmt: skip
_SMOKE = replace(
    _SMALL, preset="smoke", steps=2_048, warmup=512, replay=2_048, target_every=256, epsilon_steps=1_024,
    record_every=512, score_every=1_024, score_episodes=1,
)  # fmt: skip

RECIPES: Final = {recipe.preset: recipe for recipe in (_PAPER, _SMALL, _GPU, _SMOKE)}


def find_recipe(preset: str) -> AgentRecipe:
    """Return the recipe of a preset; ValueError lists the presets, where there is no such one."""
    if preset not in RECIPES:
        raise ValueError(f"`preset` must be one of {', '.join(RECIPES)}, got {preset!r}")
    return RECIPES[preset]

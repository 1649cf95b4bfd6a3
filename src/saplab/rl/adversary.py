"""Who changes what an agent sees: the attacks on images, driven against the action that the agent would take."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from saplab.defenses.drawing import current
from saplab.rl.player import mean_values
from saplab.rng.streams import stream_key


class Attack(Protocol):
    """What `saplab.attacks` offers: `FGSM`, `RandomNoise` and the like."""

    def __call__(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, eps: float, seed: int = 0, *,
        examples: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Give images like `images`, within `eps` of them and within [0, 1]."""


@dataclass(frozen=True)
class Adversary:
    """Changes every observation so that a network no longer prefers the action it would take.

    Source: Huang et al. 2017, "Adversarial attacks on neural network policies": the loss that an attack drives up is
    the cross-entropy of softmax(Q) against the greedy action. The paper does not define its loss for Q-networks.

    Args:
        network: whose gradient is used, and whose greedy action is driven away: the player's own, or another's.
        attack: any of `saplab.attacks`.
        eps: radius in the unit of [0, 1] frames; λ pixel steps are λ/255.
        samples: passes of `network` that tell its greedy action; 0 for an attack that does not look at it.
        seed: of the attack's draws, a stream apart from the player's.
        newest: change only the newest frame of a stack; the older ones stay as the player saw them. Otherwise the
            whole stack is changed, each time anew from the game's own frames.
    """

    network: nn.Module
    attack: Attack
    eps: float
    samples: int = 1
    seed: int = 0
    newest: bool = False

    def perturb(self, stacks: Tensor, numbers: Tensor) -> Tensor:
        """Give what the player sees instead of `stacks` (N, 4, H, W); numbers (N,) ascend, and decide the draws."""
        labels = self._greedy_actions(stacks, numbers)
        if not self.newest:
            return self.attack(self.network, stacks, labels, self.eps, self.seed, examples=numbers)
        older, frames = stacks[:, :-1], stacks[:, -1:]
        network = NewestFrame(self.network, older, numbers)
        return torch.cat((older, self.attack(network, frames, labels, self.eps, self.seed, examples=numbers)), 1)

    def _greedy_actions(self, stacks: Tensor, numbers: Tensor) -> Tensor:
        if self.samples == 0:
            return torch.zeros(len(stacks), dtype=torch.int64, device=stacks.device)
        key = stream_key(self.seed, "attack")
        return mean_values(self.network, stacks, self.samples, key, numbers).argmax(1)


class NewestFrame(nn.Module):
    """A Q-network as a function of the newest frame (N, 1, H, W) alone, with each example's older frames held.

    Which example a row of the batch belongs to is read from the draws that the attack fixes for it, so that rows may
    be repeated, left out or split into batches.

    Args:
        network: stacks (N, 4, H, W) -> values.
        older: (M, 3, H, W).
        numbers: (M,) the numbers of their examples, ascending.
    """

    def __init__(self, network: nn.Module, older: Tensor, numbers: Tensor) -> None:
        super().__init__()
        self.network, self._older, self._numbers = network, older, numbers

    def forward(self, frames: Tensor) -> Tensor:
        """Give the values of the stacks that end with `frames`."""
        drawing = current()
        if drawing is None:
            raise ValueError("a network of the newest frame can only run inside an attack, which tells its examples")
        rows = torch.searchsorted(self._numbers, drawing.streams[:, 2].to(self._numbers.device).contiguous())
        return self.network(torch.cat((self._older[rows], frames), 1))  # type: ignore[no-any-return]

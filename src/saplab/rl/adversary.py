"""An adversary that changes what an agent sees, by the attacks on images, driven against the agent's own action."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saplab.attacks import Attack
from saplab.defenses.drawing import current
from saplab.defenses.stochastic import trust
from saplab.rl.player import mean_values, step_of
from saplab.rng.streams import stream_key


@dataclass(frozen=True)
class Adversary:
    """Changes every observation so that a network no longer prefers the action it would take.

    Source: Huang et al. 2017, "Adversarial attacks on neural network policies": an attack drives up the cross-entropy
    of softmax(Q) against the greedy action. The paper does not define its loss for Q-networks.

    An attack that leaves lost examples alone judges them by the mean softmax over passes, where a random agent acts by
    its mean values: against such an agent, give it ``stop_when_lost=False``.

    Attributes:
        network: whose gradient is used, and whose greedy action is attacked: the player's own network, or another.
        eps: radius in the unit of [0, 1] frames; λ pixel steps are λ/255.
        samples: passes of `network` that determine its greedy action; 0 for an attack that does not look at it.
        seed: of the attack's draws, a stream separate from the player's.
        newest: change only the newest frame of a stack, and leave the older ones as the player saw them. Otherwise the
            whole stack is changed, each time starting from the game's own frames.
    """

    network: nn.Module
    attack: Attack
    eps: float
    samples: int = 1
    seed: int = 0
    newest: bool = False

    def perturb(self, stacks: Tensor, numbers: Tensor) -> Tensor:
        """Return what the player sees in place of `stacks` (N, 4, H, W); ascending numbers (N,) decide the draws.

        With `newest`, the older frames in `stacks` must be those that the player saw.
        """
        labels = self._greedy_actions(stacks, numbers)
        seed = self.seed + (step_of(self.network, numbers) << 64)  # an attack's passes begin with 0 in each step
        if not self.newest:
            return self.attack(self.network, stacks, labels, self.eps, seed=seed, examples=numbers)
        older, frames = stacks[:, :-1], stacks[:, -1:]
        network = trust(NewestFrame(self.network, older, numbers))  # which takes no other examples
        return torch.cat((older, self.attack(network, frames, labels, self.eps, seed=seed, examples=numbers)), 1)

    def _greedy_actions(self, stacks: Tensor, numbers: Tensor) -> Tensor:
        if self.samples == 0:
            return torch.zeros(len(stacks), dtype=torch.int64, device=stacks.device)
        key = stream_key(self.seed, "attack")
        return mean_values(self.network, stacks, self.samples, key, numbers).argmax(1)


class NewestFrame(nn.Module):
    """A Q-network as a function of the newest frame (N, 1, H, W) alone, with each example's older frames held.

    The draws that the attack fixes say which example a row of the batch belongs to, so that rows may be repeated, left
    out or split into batches. The older frames (M, 3, H, W) have ascending numbers (M,).
    """

    def __init__(self, network: nn.Module, older: Tensor, numbers: Tensor) -> None:
        super().__init__()
        self.network, self._older, self._numbers = network, older, numbers

    def forward(self, frames: Tensor) -> Tensor:
        """Return the values of the stacks that end with `frames`."""
        drawing = current()
        if drawing is None:
            raise ValueError("a network of the newest frame can only run inside an attack, which tells its examples")
        rows = torch.searchsorted(self._numbers, drawing.streams[:, 2].to(self._numbers.device).contiguous())
        return self.network(torch.cat((self._older[rows], frames), 1))  # type: ignore[no-any-return]

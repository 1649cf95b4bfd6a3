"""Double DQN (van Hasselt, Guez & Silver 2016, "Deep reinforcement learning with double Q-learning")."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from saplab.models.qnetwork import QNetwork
from saplab.rl.recipes import AgentRecipe
from saplab.rl.replay import Transitions
from saplab.system.precision import computing_in, resolve_precision


def td_targets(returns: Tensor, discounts: Tensor, next_values: Tensor, next_target_values: Tensor) -> Tensor:
    """Return the targets R + γ · Q_target(s', argmax_a Q(s', a)), (B,).

    Source: van Hasselt et al. 2016, equation 4, over n steps as in Hessel et al. 2018, section 3.

    Returns and discounts (B,) are those of `Transitions`. Both values are (B, actions): those of the network that
    learns, which chooses the action, and those of the target network, which says what it is worth.
    """
    chosen = next_values.argmax(1, keepdim=True)
    return returns + discounts * next_target_values.gather(1, chosen)[:, 0]


def epsilon_greedy(values: NDArray[np.float32], epsilon: float, draws: np.random.Generator) -> NDArray[np.int64]:
    """Return the greedy action of each row of values (E, actions), or with probability `epsilon` a random one; (E,)."""
    games, actions = values.shape
    random = draws.integers(actions, size=games)
    return np.where(draws.random(games) < epsilon, random, values.argmax(1)).astype(np.int64)


class Learner:
    """A Q-network that learns in place, on its own device, with its target and its optimiser."""

    def __init__(self, network: QNetwork, recipe: AgentRecipe) -> None:
        self.network = network
        self.target = copy.deepcopy(network)
        self.optimizer = recipe.optimizer.build(network.parameters(), recipe.lr)
        self._recipe = recipe
        self._device = next(network.parameters()).device
        self._precision = resolve_precision(recipe.precision, self._device)

    @torch.no_grad()
    def values(self, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the values (N, actions) of stacks (N, 4, H, W)."""
        with computing_in(self._precision, self._device):
            values = self.network.of_bytes(self._on_device(torch.from_numpy(stacks)))
        return values.float().cpu().numpy()

    def update(self, batch: Transitions, lr: float) -> float:
        """Take a step of gradient descent on the Huber loss of the temporal differences; return the mean loss."""
        next_stacks = self._on_device(batch.next_stacks).to(getattr(torch, self._precision))  # once for both networks
        with computing_in(self._precision, self._device, keep_casts=True):  # for the network's two passes
            values = self.network.of_bytes(self._on_device(batch.stacks))
            with torch.no_grad():
                next_values = self.network.of_bytes(next_stacks), self.target.of_bytes(next_stacks)
        targets = td_targets(self._on_device(batch.returns), self._on_device(batch.discounts), *next_values)
        taken = values.gather(1, self._on_device(batch.actions)[:, None])[:, 0]
        loss = F.smooth_l1_loss(taken, targets)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        if self._recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.clip)
        self.optimizer.step()
        return loss.item()

    def copy_to_target(self) -> None:
        """Make the target network equal to the one that learns."""
        self.target.load_state_dict(self.network.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of the network, its target and the optimiser, by name."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"target.{name}": tensor for name, tensor in self.target.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        for part, module in (("network", self.network), ("target", self.target)):
            module.load_state_dict({name: tensors[f"{part}.{name}"] for name in module.state_dict()})
        stored = [name.split(".", 2) for name in tensors if name.startswith("optimizer.")]
        for name, parameter in self.network.named_parameters():
            state = {key: tensors[f"optimizer.{key}.{name}"] for _, key, owner in stored if owner == name}
            self.optimizer.state[parameter] = {key: self._like(value, parameter) for key, value in state.items()}

    def _like(self, value: Tensor, parameter: Tensor) -> Tensor:
        """Lay out a state tensor in memory like its parameter, so that a resumed run computes as an uninterrupted one.

        Of what has no parameter's shape, a fused optimiser wants the count of its steps beside the parameter.
        """
        if value.shape == parameter.shape:
            return parameter.detach().clone().copy_(value)
        fused = self.optimizer.param_groups[0].get("fused")
        return value.to(parameter.device, copy=True) if fused else value.clone()

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

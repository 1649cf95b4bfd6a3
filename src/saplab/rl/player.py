"""An agent as a player: it acts on the mean of its network's values over passes."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from saplab.defenses import is_random, shares_draws
from saplab.defenses.drawing import drawing
from saplab.defenses.prediction import BATCH, logits, of_classes
from saplab.rng.streams import pass_streams, stream_key
from saplab.system.device import device_of

STEPS: Final = 1 << 15  # an episode's observations are numbered from STEPS times its own number


@dataclass(frozen=True)
class Player:
    """An agent that plays by a network, stacks (N, 4, 84, 84) in [0, 1] -> values (N, actions), over `passes`."""

    network: nn.Module
    passes: int = 1
    seed: int = 0

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return device_of(self.network)

    def values(self, stacks: Tensor, numbers: Tensor) -> Tensor:
        """Return the mean values (N, actions) of stacks, whose numbers (N,) decide the draws.

        The stacks are those of one step of several episodes.
        """
        return mean_values(self.network, stacks, self.passes, stream_key(self.seed), numbers)


@torch.no_grad()
def mean_values(network: nn.Module, stacks: Tensor, passes: int, key: int, numbers: Tensor) -> Tensor:
    """Average the values (N, actions) over the passes of one step under a stream key, several of them in one batch.

    A network whose examples share a draw, as where weights are changed, has other passes in each step; examples with
    draws of their own have them by their numbers.

    Raises ValueError if the network does not return (N, actions), all finite.
    """
    if passes < 1:
        raise ValueError(f"`passes` must be >= 1, got {passes}")
    rounds = passes if is_random(network) else 1
    most = 1 if shares_draws(network) else max(1, BATCH // len(stacks))
    total, first = torch.zeros(()), rounds * step_of(network, numbers)
    for start in range(first, first + rounds, most):
        group = range(start, min(start + most, first + rounds))
        with drawing(torch.cat([pass_streams(key, pass_, numbers) for pass_ in group])):
            values = logits(network, stacks.repeat(len(group), 1, 1, 1)).float()
        total = total + values.unflatten(0, (len(group), -1)).sum(0)
    return of_classes(total) / rounds


def step_of(network: nn.Module, numbers: Tensor) -> int:
    """Return the step of observations (N,) of a network whose examples share a draw; 0 of any other one."""
    return int(numbers[0]) % STEPS if shares_draws(network) else 0

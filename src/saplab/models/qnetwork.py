"""The Q-network of Mnih et al. 2015, "Human-level control through deep reinforcement learning" (paper, appendix A)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saplab.models.initialise import untouched_generator

STACK = 4  # frames in one observation, oldest first
SIZE = 84  # height and width of a frame


class QNetwork(nn.Module):
    """Stacks of four frames (N, 4, 84, 84) in [0, 1] -> the value of each action, (N, actions).

    Three convolutions (32 of 8×8 stride 4, 64 of 4×4 stride 2, 64 of 3×3), a layer of 512, and one output for each
    action, with a ReLU after each but the last. The last layer computes in float32 even under autocast: bfloat16 would
    round away the differences between actions.
    """

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(STACK, 32, 8, 4)
        self.conv2 = nn.Conv2d(32, 64, 4, 2)
        self.conv3 = nn.Conv2d(64, 64, 3, 1)
        self.hidden = nn.Linear(64 * 7 * 7, 512)
        self.head = nn.Linear(512, actions)

    def forward(self, stacks: Tensor) -> Tensor:
        """Return the values (N, actions) of stacks in [0, 1]."""
        return self._values(self.conv1(stacks))

    def of_bytes(self, stacks: Tensor) -> Tensor:
        """Return ``forward(stacks / 255)`` for stacks of bytes, uint8 (N, 4, 84, 84).

        The first layer's weights are divided instead of the pixels: that is cheaper, and also exact in bfloat16, which
        holds 0..255 but not their 255ths.
        """
        kind = stacks.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.conv1.weight.dtype
        return self._values(F.conv2d(stacks.to(dtype), self.conv1.weight / 255, self.conv1.bias, self.conv1.stride))

    def _values(self, maps: Tensor) -> Tensor:
        """Go on from the first layer's maps (N, 32, 20, 20), before their ReLU."""
        h = F.relu(self.conv2(F.relu(maps)))
        h = F.relu(self.conv3(h)).flatten(1)
        h = F.relu(self.hidden(h))
        with torch.autocast(h.device.type, enabled=False):
            return self.head(h.float())  # type: ignore[no-any-return]


def new_network(actions: int, seed: int) -> QNetwork:
    """Build a Q-network, stored channels last, whose first weights depend on `seed` alone.

    They have PyTorch's own law, uniform within ±1/√fan-in, but the global generator is not touched.
    """
    if actions < 1:
        raise ValueError(f"`actions` must be >= 1, got {actions}")
    with untouched_generator():
        network = QNetwork(actions)
    generator = torch.Generator().manual_seed(seed)
    for layer in network.children():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

"""What images cost: network passes, and how long they take here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from saplab.defenses import predict
from saplab.runs.cell import Group, ImageCell, Network, groups_of
from saplab.runs.images import Images
from saplab.runs.networks import network_of
from saplab.system.words import counted

LONG: Final = 30.0  # seconds from which a caller should be told before work begins

_FEW, _MANY = 8, 64  # images of a measurement
_QUICK_SECONDS = 0.2  # of a pass over the few, up to which the many are measured too


@dataclass(frozen=True)
class Budget:
    """The most that cells of images cost.

    Attributes:
        forward, backward: passes of one image through the network.
        seconds: in one process, a backward pass counted as two.
    """

    forward: int
    backward: int
    seconds: float

    @property
    def passes(self) -> str:
        """Return the passes in words."""
        return (
            f"at most {self.forward:,} forward and {self.backward:,} backward passes of one image through the network"
        )

    @property
    def time(self) -> str:
        """Return the time in words."""
        seconds = round(self.seconds)
        told = counted(seconds, "second") if seconds < 100 else counted(round(seconds / 60), "minute")
        told = told if seconds < 6000 else f"{seconds / 3600:.1f} hours"
        return (
            f"at most about {told} in one process at the speed just measured; less where images are misclassified early"
        )


def budget_of(cells: Sequence[ImageCell], inputs: Images) -> Budget:
    """Count the passes of cells of images, and time the heaviest network among them."""
    costs = [_cost(group) for group in groups_of(cells)]
    forward, backward = (sum(parts) for parts in zip(*costs, strict=True))
    return Budget(forward, backward, (forward + 2 * backward) * _seconds_of_a_pass(cells, inputs))


def _cost(group: Group) -> tuple[int, int]:
    """Return the most forward and backward passes of a group of cells."""
    cells = [cell for cell in group if isinstance(cell, ImageCell)]
    most, images = max(cells, key=lambda cell: cell.crafting), cells[0].stop - cells[0].start
    crafting = most.attack.cost(most.attacked_eps)
    predictions = sum(cell.passes * len(cell.eps) for cell in cells)
    return images * (crafting.forward + predictions), images * crafting.backward


def _seconds_of_a_pass(cells: Sequence[ImageCell], inputs: Images) -> float:
    """Time a forward pass of one image through the heaviest network."""
    networks: set[Network] = {cell.defender for cell in cells}
    model = network_of(max(networks, key=lambda network: len(network.defenses)), inputs.models)
    images = inputs.data.images[:_MANY].to(inputs.device)
    few = _seconds(model, images[:_FEW], 2)
    return _seconds(model, images, 1) / len(images) if few < _QUICK_SECONDS else few / len(images[:_FEW])


def _seconds(model: torch.nn.Module, images: torch.Tensor, rounds: int) -> float:
    """Return the time of a pass over images, the least of some rounds."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        predict(model, images, 1, bounds=None)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)

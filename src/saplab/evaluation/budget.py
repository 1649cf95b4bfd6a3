"""What images cost: network passes, and how long they take here."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from saplab.defenses import predict
from saplab.runs.cell import Group, ImageCell, Network, groups_of
from saplab.runs.images import Images
from saplab.runs.networks import network_of
from saplab.system.precision import computing_in
from saplab.system.words import counted

LONG: Final = 30.0  # seconds from which a caller should be told before work begins

_FEW, _MANY = 8, 256  # images of a measurement
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
    """Count the passes of cells of images, and time them: of each network, its heaviest defence, in each precision."""
    works = [work for group in groups_of(cells) for work in _works(group)]
    heaviest = {work.kind: work.network for work in sorted(works, key=lambda work: len(work.network.defenses))}
    speeds = {kind: _seconds_of_a_pass(network, kind[-1], inputs) for kind, network in heaviest.items()}
    forward, backward = sum(work.forward for work in works), sum(work.backward for work in works)
    seconds = sum((work.forward + 2 * work.backward) * speeds[work.kind] for work in works)
    return Budget(forward, backward, seconds)


@dataclass(frozen=True)
class _Work:
    """Passes of one image through one network, in one precision."""

    network: Network
    precision: str
    forward: int
    backward: int = 0

    @property
    def kind(self) -> tuple[str, bool, str]:
        """Return what has one speed."""
        return self.network.model, bool(self.network.defenses), self.precision


def _works(group: Group) -> Iterator[_Work]:
    """Yield the most passes of a group of cells: its attack's, and the predictions of each cell."""
    cells = [cell for cell in group if isinstance(cell, ImageCell)]
    most, images = max(cells, key=lambda cell: cell.crafting), cells[0].stop - cells[0].start
    crafting = most.attack.cost(most.attacked_eps)
    own = getattr(getattr(most.attack, "gradient", most.attack), "precision", "float32")  # of its own passes alone
    precision = most.precision if own == "float32" else own
    yield _Work(most.adversary, precision, images * crafting.forward, images * crafting.backward)
    for cell in cells:
        yield _Work(cell.defender, cell.precision, images * cell.passes * len(cell.eps))


def _seconds_of_a_pass(network: Network, precision: str, inputs: Images) -> float:
    """Time a forward pass of one image through a network."""
    model, images = network_of(network, inputs.models), inputs.data.images[:_MANY].to(inputs.device)
    with computing_in(precision, inputs.device):
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

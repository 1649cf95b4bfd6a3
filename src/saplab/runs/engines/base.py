"""What an engine is: it takes groups of cells and gives their results as they come, trying again what fails."""

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self

if TYPE_CHECKING:
    from torch import nn

TRIES: Final = 3  # of a group, before it is given up

Tick = Callable[[int], None]


class AnyCell(Protocol):
    """What runs know of a cell, be it of images or of games: its name, and the range of its examples or episodes."""

    @property
    def digest(self) -> str:
        """Give what names the cell's file."""

    @property
    def start(self) -> int:
        """Give the first of the range."""

    @property
    def stop(self) -> int:
        """Give the end of the range."""


Group = tuple[AnyCell, ...]


class Workload(Protocol):
    """What the cells of a run name, and how they are computed with it; one class for each kind of cells.

    Engines do not look into cells and results (`Any`): they carry those of one kind to its own workload and back.
    """

    numerics: ClassVar[int]  # version of the numbers

    @property
    def models(self) -> "Mapping[tuple[str, str], nn.Module]":
        """Give the plain networks by (model, digest)."""

    @property
    def device(self) -> str:
        """Give PyTorch's device, where the models are."""

    def groups(self, cells: Iterable[Any]) -> Sequence[Any]:
        """Gather the cells that are computed together."""

    def work(self, group: Any) -> int:
        """Give the work of a group, in the unit of the progress bar."""

    def compute(self, group: Any, tick: Tick) -> Sequence[Any]:
        """Compute the results of a group, in the order of its cells; `tick` gets `work(group)` in all."""

    def beside(self) -> Mapping[str, Any]:
        """Give what travels to other processes beside the networks, as plain values and NumPy arrays."""

    @classmethod
    def unpacked(cls, models: "Mapping[tuple[str, str], nn.Module]", beside: Mapping[str, Any], device: str) -> Self:
        """Give the workload again where it has travelled to."""


@dataclass(frozen=True)
class Computed:
    """A group's results, in the order of its cells."""

    group: Group
    results: Sequence[Any]


@dataclass(frozen=True)
class Failed:
    """A group that is given up.

    Args:
        group: the cells.
        reason: of the last try, in one line.
        details: the last traceback, where there is one.
        tries: how often it was tried.
    """

    group: Group
    reason: str
    details: str = ""
    tries: int = 1


Outcome = Computed | Failed


class Engine(Protocol):
    """Compute groups somewhere.

    Whatever the engine, a group's numbers are those of `Workload.compute` with as many threads, bit for bit. A
    generator that is closed early ends what it has started.
    """

    def __call__(self, todo: Sequence[Group], inputs: Workload, tick: Tick) -> Generator[Outcome]:
        """Give each group's outcome, in any order; `tick` gets the work done, `inputs.work(group)` for each in all."""

    def __str__(self) -> str:
        """Say in a few words where it computes."""


@dataclass(frozen=True)
class Trouble:
    """Why one try failed.

    Args:
        reason, details: as in `Failed`.
        final: whether another try would fail in the same way.
    """

    reason: str
    details: str = ""
    final: bool = False


def trouble_of(error: Exception) -> Trouble:
    """Describe what a computation raised. A ValueError is about the request, and not tried again."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Trouble(reason, "".join(traceback.format_exception(error)), isinstance(error, ValueError))


@dataclass(frozen=True)
class Try:
    """One try of a group, the first with number 1."""

    group: Group
    number: int = 1


class Queue:
    """Groups to compute, taken one at a time; what failed comes back until it has had its tries."""

    def __init__(self, todo: Iterable[Group]) -> None:
        self._tries = deque(map(Try, todo))

    def __len__(self) -> int:
        return len(self._tries)

    def take(self) -> Try | None:
        """Give the next try; None where there is none left for now."""
        return self._tries.popleft() if self._tries else None

    def settle(self, attempt: Try, found: Sequence[Any] | Trouble) -> Outcome | None:
        """Give a try's outcome; None where the group will be tried again, before all others."""
        if not isinstance(found, Trouble):
            return Computed(attempt.group, found)
        if found.final or attempt.number >= TRIES:
            return Failed(attempt.group, found.reason, found.details, attempt.number)
        self._tries.appendleft(Try(attempt.group, attempt.number + 1))
        return None

"""What an engine is: it takes groups of cells and gives their results as they come, trying again what fails."""

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from saplab.runs.cellfile import CellResult
from saplab.studies import Cell

if TYPE_CHECKING:
    from saplab.runs.local import Inputs

TRIES: Final = 3  # of a group, before it is given up

Tick = Callable[[int], None]
Group = tuple[Cell, ...]


@dataclass(frozen=True)
class Computed:
    """A group's results, in the order of its cells."""

    group: Group
    results: Sequence[CellResult]


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

    Whatever the engine, a group's numbers are those of `local.compute` with as many threads, bit for bit. A generator
    that is closed early ends what it has started.
    """

    def __call__(self, todo: Sequence[Group], inputs: "Inputs", tick: Tick) -> Generator[Outcome]:
        """Give each group's outcome, in any order; `tick` gets the work done, `work_of(group)` for each in all."""

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

    def settle(self, attempt: Try, found: Sequence[CellResult] | Trouble) -> Outcome | None:
        """Give a try's outcome; None where the group will be tried again, before all others."""
        if not isinstance(found, Trouble):
            return Computed(attempt.group, found)
        if found.final or attempt.number >= TRIES:
            return Failed(attempt.group, found.reason, found.details, attempt.number)
        self._tries.appendleft(Try(attempt.group, attempt.number + 1))
        return None

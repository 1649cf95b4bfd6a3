"""What an engine is: it takes groups of cells and gives their results as they come, trying again what fails."""

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, Self

from torch import nn

from saplab.runs.cell import Group, work_of
from saplab.system.machine import usable_cores
from saplab.system.registry import import_object
from saplab.system.words import did_you_mean

TRIES: Final = 3  # of a group, before it is given up

Tick = Callable[[int], None]
Models = Mapping[tuple[str, str], nn.Module]  # plain networks by (model, digest)


class Workload(Protocol):
    """What the cells of a run name, and how they are computed with it; one class for each kind of cells.

    Engines do not look into results (`Any`): they carry those of one kind to its own workload and back.
    """

    numerics: ClassVar[int]  # version of the numbers

    @property
    def models(self) -> Models:
        """Return the plain networks by (model, digest)."""

    @property
    def device(self) -> str:
        """Return PyTorch's device, where the models are."""

    def compute(self, group: Group, tick: Tick) -> Sequence[Any]:
        """Compute the results of a group, in the order of its cells; `tick` gets the group's work in all."""

    def beside(self) -> Mapping[str, Any]:
        """Return what travels to other processes beside the networks, as plain values and NumPy arrays."""

    @classmethod
    def unpacked(cls, models: Models, beside: Mapping[str, Any], device: str) -> Self:
        """Return the workload again where it has travelled to."""


@dataclass(frozen=True)
class Computed:
    """A group's results, in the order of its cells."""

    group: Group
    results: Sequence[Any]


@dataclass(frozen=True)
class Failed:
    """A group that is given up after `tries`: the last one's reason, in one line, and its traceback."""

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
        """Yield each group's outcome, in any order; `tick` gets the work done, in all that of each computed group."""

    def __str__(self) -> str:
        """Return in a few words where it computes."""


@dataclass(frozen=True)
class Options:
    """What people choose of an engine.

    Attributes:
        workers: processes, or tasks at once; None for what the engine takes by itself.
        threads: of PyTorch in each worker; None for a fair share of the cores.
        address: of a cluster; None for this machine.
        device: of PyTorch that the workers compute on; its kind is a part of every cell.
    """

    workers: int | None = None
    threads: int | None = None
    address: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be >= 1, got {value}")

    @property
    def share(self) -> int:
        """Return the threads of each worker: the cores of this machine divided among them unless chosen otherwise."""
        if self.threads is not None:
            return self.threads
        return max(1, usable_cores() // self.workers) if self.workers and self.address is None else 1


Maker = Callable[[Options], Engine]

_makers: dict[str, Maker] = {}


def register_engine(name: str) -> Callable[[Maker], Maker]:
    """Register, as a decorator, a function that makes an engine from `Options`, under a name for ``--engine``."""

    def add(maker: Maker) -> Maker:
        _makers[name] = maker
        return maker

    return add


def make_engine(name: str, options: Options) -> Engine:
    """Make the engine with a name, or by the maker that ``package.module:function`` names.

    Raises:
        ValueError: there is no such engine, or it cannot take the options.
    """
    if name not in _makers and ":" not in name:
        wanted = f"`engine` must be one of {', '.join(_makers)} or package.module:maker, got {name!r}"
        raise ValueError(wanted + did_you_mean(name, _makers))
    maker: Maker = _makers.get(name) or import_object(name)
    return maker(options)


@dataclass(frozen=True)
class Trouble:
    """Why one try failed, as in `Failed`, and whether another try would fail in the same way."""

    reason: str
    details: str = ""
    final: bool = False


def trouble_of(error: Exception) -> Trouble:
    """Describe what a computation raised. A ValueError is about the request, and not tried again."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Trouble(reason, "".join(traceback.format_exception(error)), isinstance(error, ValueError))


class Queue:
    """Groups to compute, taken one at a time; what failed comes back until it has had its tries.

    `tick` gets the work of each group that is computed.
    """

    def __init__(self, todo: Iterable[Group], tick: Tick = lambda n: None) -> None:
        self._waiting, self._tick = deque(todo), tick
        self._tries: dict[str, int] = {}  # by the first cell's digest

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Group | None:
        """Return the next group; None where there is none left for now."""
        return self._waiting.popleft() if self._waiting else None

    def settle(self, group: Group, found: Sequence[Any] | Trouble) -> Outcome | None:
        """Return the outcome of a try; None where the group will be tried again, before all others."""
        if not isinstance(found, Trouble):
            self._tick(work_of(group))
            return Computed(group, found)
        tries = self._tries[group[0].digest] = self._tries.get(group[0].digest, 0) + 1
        if found.final or tries >= TRIES:
            return Failed(group, found.reason, found.details, tries)
        self._waiting.appendleft(group)
        return None

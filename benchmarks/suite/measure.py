"""Interleaved timing: rounds in which every work has its turn, and medians and quartiles over the rounds."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import torch

Work = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)
Say = Callable[[str], object]  # told what is being measured

_WARM_UP: Final = 0.03  # seconds
_BRIEF: Final = 0.1  # work that takes longer needs no warm-up beyond its first call


@dataclass(frozen=True)
class Spread:
    """A number measured in several rounds: median, quartiles, the smallest, and how many rounds."""

    median: float
    low: float
    high: float
    best: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise the values of one or more rounds.

        Raises:
            ValueError: for no values.
        """
        if not values:
            raise ValueError("`values` must hold at least one round, got none")
        ordered = sorted(values)
        quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
        low, middle, high = quartiles
        return cls(middle, low, high, ordered[0], len(ordered))

    def inverse(self, amount: float) -> "Spread":
        """Give `amount` / value: what is done in a unit of time, where this is the time of each."""
        median, low, high = (amount / value for value in (self.median, self.high, self.low))
        return Spread(median, low, high, amount / self.best, self.rounds)


@dataclass
class Times:
    """Seconds of each round: by the clock on the wall, and of this process on all cores."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def spread(self, unit: float = 1.0) -> Spread:
        """Summarise the wall-clock times in units of `unit` seconds."""
        return Spread.of([seconds / unit for seconds in self.wall])

    def ratio(self, other: "Times") -> Spread:
        """Summarise how many times as long as `other` this took, round by round, so that a disturbance meets both."""
        return Spread.of([mine / theirs for mine, theirs in zip(self.wall, other.wall, strict=False)])

    def scaled(self, factor: float) -> "Times":
        """Give the times of a part of the work."""
        return Times([factor * seconds for seconds in self.wall], [factor * seconds for seconds in self.cpu])

    def processor(self, unit: float = 1.0) -> float:
        """Give the median processor time: where others want the cores, the wall clock counts their time as well."""
        return statistics.median(self.cpu) / unit


def time_in_turn(
    works: Mapping[Name, Work], rounds: int | Mapping[Name, int], device: str = "cpu"
) -> dict[Name, Times]:
    """Time each work in turn, round after round, so that a disturbance meets all of them.

    Every work is called once before, uncounted. Work that has fewer rounds than others drops out earlier.

    Args:
        works: what to time, by name.
        rounds: of all works, or of each.
        device: what is waited for before the clock is read.
    """
    turns = dict.fromkeys(works, rounds) if isinstance(rounds, int) else rounds
    times = {name: Times() for name in works}
    for turn in range(max(turns.values())):
        for name, work in works.items():
            if turn < turns[name]:
                _warm_up(work, times[name], device)
                _time_once(work, times[name], device)
    return times


def _time_once(work: Work, times: Times, device: str) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wait_for(device)
    times.wall.append(time.perf_counter() - wall)
    times.cpu.append(time.process_time() - cpu)


def _warm_up(work: Work, times: Times, device: str) -> None:
    """Call for a while, uncounted: torch's threads spin for milliseconds after another's task, and cores cool down."""
    if times.wall and times.wall[-1] > _BRIEF:
        return
    start = time.perf_counter()
    while True:
        work()
        wait_for(device)
        if time.perf_counter() > start + _WARM_UP:
            return


def wait_for(device: str) -> None:
    """Wait until the device has done what it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()

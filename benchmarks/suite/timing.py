"""Interleaved timing: in every round each work has its turn; results are medians and quartiles over the rounds."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import torch

Work = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")

_WARM_UP: Final = 0.03  # seconds
_BRIEF: Final = 0.1  # work that takes longer needs no warm-up beyond its first call


@dataclass(frozen=True)
class Spread:
    """A number measured in several rounds.

    Attributes:
        median, low, high: the median and the quartiles.
        best: the smallest value, of a time; the largest, of a rate.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    best: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise the values of one or more rounds.

        Raises:
            ValueError: if there are no values.
        """
        if not values:
            raise ValueError("`values` must hold at least one round, got none")
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
        low, middle, high = quartiles
        return cls(middle, low, high, min(values), len(values))

    def inverse(self, amount: float) -> "Spread":
        """Return `amount` / value: from the time of one piece of work, the rate at which it is done."""
        median, low, high, best = (amount / value for value in (self.median, self.high, self.low, self.best))
        return Spread(median, low, high, best, self.rounds)


@dataclass
class Times:
    """Seconds of each round: wall-clock time, and processor time of this process on all cores."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def spread(self, unit: float = 1.0) -> Spread:
        """Summarise the wall-clock times in units of `unit` seconds."""
        return Spread.of([seconds / unit for seconds in self.wall])

    def ratio(self, other: "Times") -> Spread:
        """Summarise this time / `other`, round by round, so that a disturbance affects both."""
        return Spread.of([mine / theirs for mine, theirs in zip(self.wall, other.wall, strict=False)])

    def scaled(self, factor: float) -> "Times":
        """Return the times of a part of the work."""
        return Times([factor * seconds for seconds in self.wall], [factor * seconds for seconds in self.cpu])

    def processor(self, unit: float = 1.0) -> float:
        """Return the median processor time; unlike wall-clock time, it leaves out what other programs took."""
        return statistics.median(self.cpu) / unit


def time_in_turn(
    works: Mapping[Name, Work], rounds: int | Mapping[Name, int], device: str = "cpu"
) -> dict[Name, Times]:
    """Time each work in turn, round after round, so that a disturbance affects all of them.

    Args:
        works: what to time, by name. Each is warmed up first; that time does not count.
        rounds: of all works, or of each; work with fewer rounds drops out earlier.
        device: waited for before the clock is read.
    """
    turns = dict.fromkeys(works, rounds) if isinstance(rounds, int) else rounds
    times = {name: Times() for name in works}
    for turn in range(max(turns.values())):
        for name, work in works.items():
            if turn < turns[name]:
                _warm_up(work, times[name], device)
                time_once(work, times[name], device)
    return times


def time_once(work: Callable[[], Result], times: Times, device: str = "cpu") -> Result:
    """Call `work`, add its time to `times`, and return its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wait_for(device)
    times.wall.append(time.perf_counter() - wall)
    times.cpu.append(time.process_time() - cpu)
    return result


def _warm_up(work: Work, times: Times, device: str) -> None:
    """Repeat brief work for a while: torch's threads spin for milliseconds after other work, and cores cool down."""
    if times.wall and times.wall[-1] > _BRIEF:
        return
    end = time.perf_counter() + _WARM_UP
    while True:
        work()
        wait_for(device)
        if time.perf_counter() > end:
            return


def wait_for(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()

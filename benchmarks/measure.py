"""Interleaved timing, and the words and numbers around it, for the benchmarks of this folder."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from saplab.runs.machine import processor, usable_cores, versions

Work = Callable[[], object]
WARM_UP = 0.03  # seconds


@dataclass
class Times:
    """Seconds of each round: by the clock on the wall, and of this process on all cores."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def summary(self, unit: float) -> dict[str, float]:
        """Give medians, quartiles and the fastest, in units of `unit` seconds.

        Where other processes want the cores, the wall clock counts their time as well and the processor time does not.
        """
        wall = sorted(seconds / unit for seconds in self.wall)
        low, middle, high = statistics.quantiles(wall, n=4, method="inclusive") if len(wall) > 1 else wall * 3
        cpu = statistics.median(self.cpu) / unit
        return {"median": middle, "low": low, "high": high, "best": wall[0], "cpu": cpu, "rounds": len(wall)}


def time_in_turn(works: Mapping[str, Work], rounds: Mapping[str, int]) -> dict[str, Times]:
    """Time each work in turn, round after round, so that a disturbance meets all of them.

    Work that has fewer rounds than others drops out earlier.
    """
    times = {name: Times() for name in works}
    for turn in range(max(rounds.values())):
        for name, work in works.items():
            if turn < rounds[name]:
                _warm_up(work)
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times


def _warm_up(work: Work) -> None:
    """Call for a while, uncounted: torch's threads spin for milliseconds after another's task, and cores cool down."""
    start = time.perf_counter()
    while time.perf_counter() < start + WARM_UP:
        work()


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine and its load now."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "threads": threads,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": sys.platform,
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def print_machine(info: Mapping[str, Any]) -> None:
    """Print what `machine` found, in two lines."""
    found = info["versions"]
    print(f"{info['processor']}, {info['cores']} cores, {info['threads']} threads, {info['vectors']}")
    print(f"Python {found['python']}, torch {found['torch']}, numba {found['numba']}; load before: {info['load']}\n")


def save(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write the result as JSON, where a path was given."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")

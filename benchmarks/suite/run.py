"""Run the sections of the benchmark in their order, and describe the machine."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from saplab.system.machine import processor, usable_cores, versions
from suite.gradients import measure_gradients
from suite.measure import Say
from suite.passes import measure_memory, measure_passes
from suite.plan import SECTIONS, Plan
from suite.results import Part, Results
from suite.roofline import measure_roofline
from suite.sampling import measure_sampler
from suite.scaling import measure_scaling

MEASURES: Final[Mapping[str, Callable[[Plan, Say], Part]]] = {
    "sampler": measure_sampler,
    "pass": measure_passes,
    "gradients": measure_gradients,
    "scaling": measure_scaling,
    "memory": measure_memory,
    "roofline": measure_roofline,
}
_PEERS: Final = ("torchattacks", "foolbox", "adversarial-robustness-toolbox")


def run(plan: Plan, sections: Sequence[str], say: Say, done: Callable[[Results], object]) -> Results:
    """Measure the `sections`, and give all that they found.

    Args:
        plan: sizes, rounds, device and threads.
        sections: names of `SECTIONS`; they are measured in that order.
        say: told what is being measured.
        done: told all that is known after each section.

    Raises:
        ValueError: for an unknown section or a device that is not there.
    """
    check(sections, plan.device)
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    start, load = datetime.now(UTC), _load()
    options = {"sections": [name for name in SECTIONS if name in sections], **asdict(plan)}
    parts: list[Part] = []
    try:
        for name in options["sections"]:
            parts.append(MEASURES[name](plan, say))
            made = {**machine(plan), "load": {"start": load, "end": _load()}, **_times(start)}
            done(results := _joined(parts, made, options))
    finally:
        torch.set_num_threads(before)
    return results


def check(sections: Sequence[str], device: str) -> None:
    """Refuse sections and devices that do not exist.

    Raises:
        ValueError: it says what there is.
    """
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown or not sections:
        raise ValueError(f"`only` must name some of {', '.join(SECTIONS)}, got {', '.join(unknown) or 'none'}")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is cuda, but PyTorch finds no GPU here")


def machine(plan: Plan) -> dict[str, Any]:
    """Describe the machine and the versions."""
    gpu = {"gpu": torch.cuda.get_device_name()} if plan.device == "cuda" else {}
    return {
        "processor": processor(),
        **gpu,
        "cores": usable_cores(),
        "threads": plan.threads,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: text for name, text in versions((*_PACKAGES, *_PEERS)).items() if text != "missing"},
        "commit": commit(),
    }


_PACKAGES: Final = ("saplab", "torch", "numba", "numpy")


def commit() -> str:
    """Name the commit of the source that runs, ``-dirty`` where files differ; "" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--match", "v[0-9]*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _times(start: datetime) -> dict[str, Any]:
    end = datetime.now(UTC)
    return {"time": start.isoformat(timespec="seconds"), "seconds": round((end - start).total_seconds(), 1)}


def _joined(parts: Sequence[Part], made: Mapping[str, Any], options: Mapping[str, Any]) -> Results:
    return Results(
        made,
        options,
        tuple(record for part in parts for record in part.records),
        tuple(fit for part in parts for fit in part.fits),
        {name: value for part in parts for name, value in part.ceilings.items()},
        tuple(text for part in parts for text in part.left_out),
    )

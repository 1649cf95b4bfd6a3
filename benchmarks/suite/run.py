"""Run the sections of the benchmark in order."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Final

from saplab.rng.threads import torch_threads
from suite.calls import measure_calls
from suite.gradients import measure_gradients
from suite.machine import load_average, machine
from suite.memory import measure_memory
from suite.passes import measure_passes
from suite.plan import Plan
from suite.results import Part, Results
from suite.roofline import measure_roofline
from suite.sampling import measure_sampler
from suite.scaling import measure_scaling

SECTIONS: Final[Mapping[str, Callable[[Plan], Part]]] = {
    "sampler": measure_sampler,
    "pass": measure_passes,
    "calls": measure_calls,
    "gradients": measure_gradients,
    "scaling": measure_scaling,
    "memory": measure_memory,
    "roofline": measure_roofline,
}


def run(plan: Plan, sections: Collection[str], done: Callable[[Results], object]) -> Results:
    """Measure some sections.

    Args:
        plan: sizes, rounds, device and threads.
        sections: names of `SECTIONS`, which are measured in that order.
        done: called with all results so far after each section.
    """
    names = [name for name in SECTIONS if name in sections]
    start = time.monotonic()
    results = Results(machine(plan.threads, plan.device), {"sections": names, **asdict(plan)})
    with torch_threads(plan.threads):
        for name in names:
            part = SECTIONS[name](plan)
            seconds = round(time.monotonic() - start, 1)
            results = results.with_part(part, {"seconds": seconds, "load_after": load_average()})
            done(results)
    return results

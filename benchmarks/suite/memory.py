"""Section ``memory``: how far memory rises in one gradient pass."""

import logging
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from suite.networks import BY_HAND, DENSE, network, sample_images
from suite.passes import gradient_pass
from suite.plan import Plan
from suite.results import Part, Record
from suite.timing import Spread

log = logging.getLogger(__name__)


def measure_memory(plan: Plan) -> Part:
    """Measure the rise of memory: on the CPU that of a process for each network, on a GPU that of the allocator."""
    if plan.device == "cpu" and sys.platform != "linux":
        return Part((), left_out=("memory: only Linux reports the peak memory of a process",))
    risen: dict[str, int] = {}
    for name in (DENSE, *plan.weighed, BY_HAND):
        log.info("memory: %s", name)
        risen[name] = _rise_on_gpu(name, plan.images) if plan.device == "cuda" else rise_in_a_process(name, plan)
    case = f"gradient, float32, {plan.images} images"
    return Part(
        tuple(
            Record("memory", case, name, "MB", Spread.of([rise / 1e6]), Spread.of([rise / risen[DENSE]]), DENSE)
            for name, rise in risen.items()
        )
    )


def rise_in_a_process(name: str, plan: Plan) -> int:
    """Measure a network in a new process; return bytes."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (plan.threads,)) as processes:
        return processes.submit(_rise_here, name, plan.images).result()


def _rise_here(name: str, count: int) -> int:
    images, labels = sample_images(count)
    model = network(name)
    gradient_pass(model, images[:8], labels[:8])
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present
    before = _peak()
    gradient_pass(model, images, labels)
    return _peak() - before


def _peak() -> int:
    """Return the peak resident memory of this process since it was last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _rise_on_gpu(name: str, count: int) -> int:
    images, labels = sample_images(count, "cuda")
    model = network(name, "cuda")
    gradient_pass(model, images, labels)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradient_pass(model, images, labels)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before

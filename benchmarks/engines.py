"""Measure what storing, resuming and distributing cost beside the computation itself.

    python benchmarks/engines.py [resume writing driver overhead speedup] [--cells 100000] [--json PATH]

resume: look at a finished run of many cells, with and without its index, and how memory grows with their number.
writing: cells saved a second, each flushed to the disk.
driver: 1,000 Ray workers that only sleep; cells a second that the driver takes, saves and submits again.
overhead: what the store and the engine add to the computation of one small evaluation.
speedup: two workers of one thread, processes and Ray's, against one thread in process.

Targets: 100,000 cells looked at in under 20 s; 300 cells/s with 1,000 workers and flat memory; less than 2 % overhead;
Ray with two workers on two cores at least 1.7 times one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from suite.machine import machine, print_machine
from suite.machine import save as save_json

from saplab.attacks import FGSM, MonteCarlo, radii_of
from saplab.data.load import load_data
from saplab.defenses import SAP
from saplab.evaluation.plan import curve
from saplab.models.identity import weights_digest
from saplab.models.zoo import load_model
from saplab.runs import ImageCell, ImageResult, Network, Request, Store, groups_of, run
from saplab.runs.cell import Group
from saplab.runs.engines import Engine, InProcess, RayCluster, Workers
from saplab.runs.engines.base import Computed, Queue
from saplab.runs.engines.ray import drive, import_ray
from saplab.runs.images import Images
from saplab.runs.progress import progress_of
from saplab.runs.run import saving

PER_CURVE = 40  # cells
PASSES = 20  # for a prediction, and for a gradient
SLEEPERS = 1000
STRENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)


def cell_of(network: Network, data: str, strengths: Sequence[float], stop: int, passes: int = PASSES) -> ImageCell:
    """Return SAP-100 under FGSM with as many samples as passes."""
    return ImageCell(
        defender=network, adversary=network, attack=FGSM(MonteCarlo(passes)), eps=radii_of(strengths), start=0,
        stop=stop, passes=passes, data=data,
    )  # fmt: skip


def request_of(cells: int, images: int, strengths: Sequence[float]) -> Request:
    """Return a request of so many cells in curves of 40, for networks and data that do not exist."""
    whole = cell_of(Network("none", "a" * 64, (SAP(100),)), "b" * 64, strengths, PER_CURVE * images)
    return Request("many", tuple(curve(f"{k}", replace(whole, seed=k), images) for k in range(cells // PER_CURVE)))


def result_of(cell: Any) -> ImageResult:
    """Make up a result of a cell's size, with 10 classes."""
    examples = np.arange(cell.start, cell.stop)
    shape = (len(cell.eps), len(examples), 10)
    floats, notes = np.full(shape, 0.1, np.float32), np.zeros(len(examples), np.float32)
    votes, ends = np.full(shape, 2, np.int32), np.zeros(shape[:2], np.float32)
    none = np.zeros((len(cell.eps), 0, 32, 32, 3), np.uint8)
    return ImageResult(
        floats, votes, floats, floats, examples % 10, examples, notes, notes, notes, ends, none, {"seconds": 1.0}
    )


@contextmanager
def folder() -> Iterator[Path]:
    """Return a folder under the project's ``runs/``, on its disk, for the time of a measurement."""
    runs = Path(__file__).parents[1] / "runs"
    runs.mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="engines-", dir=runs))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def resident() -> float:
    """Return this process's memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def resume(cells: int) -> dict[str, Any]:
    """Fill run folders with tiny cells, without waiting for the disk, and look at them in fresh processes."""
    found: dict[str, Any] = {}
    for count in (cells // 10, cells):
        with folder() as root:
            _fill(root, count)
            found[f"{count}"] = {
                "request MiB": (root / "request.json").stat().st_size / 2**20,
                "with index": _look_elsewhere(root),
                "without index": _look_elsewhere(root, "--without-index"),
            }
    return found


def _fill(root: Path, count: int) -> None:
    with patch("os.fsync"):
        store = Store.open(root, request_of(count, 2, (0.0, 1.0)))
        for cell in store.request.cells:
            store.save(cell, result_of(cell))


def _look_elsewhere(root: Path, *words: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--look", str(root), *words], capture_output=True, check=True)
    values = map(float, done.stdout.split())
    return dict(zip(("read s", "resume s", "runs s", "MiB before", "MiB peak"), values, strict=True))


def look(root: Path, without_index: bool) -> None:
    """Print what one process needs to read, resume and report a run."""
    import resource

    if without_index:
        (root / "index.txt").unlink(missing_ok=True)
    before, times = resident(), [time.perf_counter()]
    store = Store.open(root, Store.read(root).request)
    times.append(time.perf_counter())
    assert store.survey().missing == ()
    times.append(time.perf_counter())
    progress_of(store)
    times.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(*np.diff(times), before, peak)


def writing(count: int = 1000) -> dict[str, float]:
    """Save cells of 250 images and 6 strengths, as fast as the disk takes them."""
    with folder() as root:
        store = Store.open(root, request_of(count, 250, STRENGTHS))
        results = [(cell, result_of(cell)) for cell in store.request.cells[:count]]
        begin = time.perf_counter()
        with saving(store) as save:
            for cell, result in results:
                save(cell, result)
        seconds = time.perf_counter() - begin
        size = store.path(results[0][0]).stat().st_size
    return {"cells/s": count / seconds, "MB/s": count * size / seconds / 1e6}


def driver(count: int = 10_000) -> dict[str, Any]:
    """Let the driver serve 1,000 workers that sleep two seconds for each cell of 250 images and 6 strengths."""
    ray = import_ray()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    sleepers = [ray.remote(Sleeper).options(max_concurrency=SLEEPERS).remote() for _ in range(2)]
    turns = iter(sleepers * count)
    with folder() as root:
        store = Store.open(root, request_of(count, 250, STRENGTHS))
        outcomes = drive(Queue(groups_of(store.request.cells)), lambda group: next(turns).work.remote(group),
                         lambda: 2 * SLEEPERS, cancel=True)  # fmt: skip
        memory, begin, cpu = [resident()], time.perf_counter(), time.process_time()
        with saving(store) as save:
            for number, outcome in enumerate(outcomes, 1):
                assert isinstance(outcome, Computed)
                save(outcome.group[0], outcome.results[0])
                if number % (count // 10) == 0:
                    memory.append(resident())
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        missing = len(store.survey().missing)
    ray.shutdown()
    return {"cells/s": count / seconds, "driver's cores": cpu / seconds, "MiB": memory, "missing": missing}


class Sleeper:
    """Many Ray workers in one process: each call sleeps as a worker would compute."""

    def __init__(self) -> None:
        self.result: ImageResult | None = None
        self.slots: Any = None

    async def work(self, group: Group) -> list[ImageResult]:
        """Sleep two seconds in one of 500 slots, and return a result."""
        import asyncio

        if self.slots is None:
            self.slots, self.result = asyncio.Semaphore(SLEEPERS // 2), result_of(group[0])
        async with self.slots:
            await asyncio.sleep(2)
        assert self.result is not None
        return [self.result]


def evaluation_of(images: int, per_cell: int, passes: int = PASSES) -> tuple[Request, Images]:
    """Return SAP-100 on the packaged network under FGSM, at 5 strengths."""
    model, data = load_model("preact-resnet20-dense"), load_data("sample")
    network = Network("preact-resnet20-dense", weights_digest(model), (SAP(100),))
    whole = cell_of(network, data.digest(), STRENGTHS[:5], images, passes)
    inputs = Images({(network.model, network.digest): model}, data)
    return Request("small", (curve("SAP-100", whole, per_cell),)), inputs


def overhead() -> dict[str, float]:
    """Compute a small evaluation, and compare the run's time with the time inside `compute`."""
    torch.set_num_threads(1)
    request, inputs = evaluation_of(100, 25)
    first = groups_of(request.cells)[0]
    list(InProcess()([first], inputs, lambda n: None))  # kernels are compiled or loaded
    inputs.clean.clear()
    with folder() as root:
        begin = time.perf_counter()
        store = Store.open(root, request)
        run(store, inputs)
        seconds = time.perf_counter() - begin
        inside = sum(store.load(cell).made["seconds"] for cell in request.cells)
    each = (seconds - inside) / len(request.cells)
    return {"run s": seconds, "computing s": inside, "ms a cell": 1e3 * each, "%": 100 * (seconds / inside - 1)}


def speedup(rounds: int = 2) -> dict[str, Any]:
    """Compute the same evaluation with each engine in turn; rates of groups, with and without the time to begin."""
    torch.set_num_threads(1)
    engines: dict[str, Engine] = {
        "in process, 1 thread": InProcess(),
        "2 worker processes": Workers(2, 1),
        "Ray, 2 workers": RayCluster(workers=2, threads=1),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            rates[name].append(_rates(engine))
    best = {name: {"groups/s": max(r for r, _ in found), "when running": max(r for _, r in found)}
            for name, found in rates.items()}  # fmt: skip
    one = best["in process, 1 thread"]["when running"]
    return {name: {**found, "speedup": found["when running"] / one} for name, found in best.items()}


def _rates(engine: Engine) -> tuple[float, float]:
    """Return groups a second of the whole run, and between the fifth result and the end."""
    request, inputs = evaluation_of(400, 10, passes=4)
    todo = groups_of(request.cells)
    begin = time.perf_counter()
    times = [time.perf_counter() for _ in engine(todo, inputs, lambda n: None)]
    return len(todo) / (times[-1] - begin), (len(times) - 5) / (times[-1] - times[4])


def show(name: str, found: Mapping[str, Any], depth: int = 0) -> None:
    """Print a measurement, one number a line."""
    print(f"{'  ' * depth}{name}")
    for key, value in found.items():
        if isinstance(value, Mapping):
            show(key, value, depth + 1)
        else:
            numbers = value if isinstance(value, Sequence) else [value]
            print(f"{'  ' * (depth + 1)}{key:<20} {'  '.join(f'{number:,.2f}' for number in numbers)}")


def main() -> None:
    """Measure what is asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="resume, writing, driver, overhead, speedup")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--without-index", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look:
        look(options.look, options.without_index)
        return
    works: dict[str, Callable[[], Mapping[str, Any]]] = {
        "resume": partial(resume, options.cells),
        "writing": writing,
        "driver": driver,
        "overhead": overhead,
        "speedup": speedup,
    }
    info = machine(torch.get_num_threads())
    print_machine(info)
    found = {}
    for name in options.what or works:
        found[name] = works[name]()
        show(name, found[name])
        print(f"  load after: {os.getloadavg()[0]:.1f}\n", flush=True)
    save_json(options.json, {"machine": info, **found})


if __name__ == "__main__":
    main()

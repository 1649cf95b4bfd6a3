"""What evaluate, reproduce and demo share: compute a job's cells with progress, print the table, write the report."""

import hashlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saplab.cli.console import Console
from saplab.system.words import counted

ENGINES = ("local", "ray")
EngineOption = Annotated[str, typer.Option(help="local (this machine) or ray (pip install 'saplab[cluster]').")]
WorkersOption = Annotated[
    int | None, typer.Option(help="Processes that compute, threads divided among them; by default this one alone.")
]
AddressOption = Annotated[
    str | None, typer.Option(help="Of a Ray cluster: auto or HOST:PORT; by default one on this machine for the run.")
]
_MOST_FAILURES = 10  # lines

if TYPE_CHECKING:
    from torch import nn

    from saplab.data.dataset import Dataset
    from saplab.runs import Request, Store
    from saplab.runs.cell import Curve
    from saplab.runs.cellfiles import Survey
    from saplab.runs.engines.base import Engine, Failed, Workload
    from saplab.runs.engines.in_process import RunStore
    from saplab.runs.images import Inputs


@dataclass(frozen=True)
class Job:
    """What to compute, with the networks and data that its cells name.

    Args:
        title: heading of the report.
        curves: one line of the chart each.
        models: plain networks by (model, digest), on the device.
        data: the data set.
        out: run folder; None for one named by the request under ``runs/``.
        verb: the command, for the folder's name.
        device: of PyTorch.
        study: text of the study's figures, kept beside the request; "" for a plain evaluation.
        engine: who computes the cells; None for this process.
    """

    title: str
    curves: "tuple[Curve, ...]"
    models: "Mapping[tuple[str, str], nn.Module]"
    data: "Dataset"
    out: Path | None
    verb: str
    device: str = "cpu"
    study: str = ""
    engine: "Engine | None" = None

    @property
    def request(self) -> "Request":
        """Give what the run folder will hold."""
        from saplab.runs import Request

        return Request(self.title, self.curves, shlex.join(["saplab", *sys.argv[1:]]), self.data.classes)

    @property
    def inputs(self) -> "Inputs":
        """Give what the engine computes with."""
        from saplab.runs.images import Inputs

        return Inputs(self.models, self.data, self.device)


def compute_and_report(job: Job, console: Console, fail_below: float | None = None) -> None:
    """Run what is missing of a job, then show and write its results.

    Args:
        job: what to compute.
        console: where to show it.
        fail_below: accuracy in % that the verdict must not fall short of.

    Raises:
        typer.Exit: with code 1 where it does.
    """
    from saplab.evaluation.report import write_report
    from saplab.evaluation.rows import to_records

    store, complete = compute(job, console)
    report = write_report(store.root)
    if console.json:
        files = [str(path) for path in report.files]
        rows = to_records(report.summary.rows)
        console.emit_json({"out": str(store.root), **report.verdict_record(), "rows": rows, "files": files})
    console.show_rows(report.summary.rows)
    if report.findings:
        console.show_verdict(report.findings.verdict)
    console.say(f"\nReport: {store.root / 'report.html'}")
    if not complete or (fail_below is not None and report.findings and report.findings.verdict.fails(fail_below)):
        raise typer.Exit(1)


def compute(job: Job, console: Console) -> "tuple[Store, bool]":
    """Compute the job's missing cells, with a progress bar; say what failed, and give whether nothing did.

    Raises:
        typer.Exit: with code 1 where there is no cell at all to show.
    """
    from saplab.runs import Store
    from saplab.runs.images import rehearse
    from saplab.system.files import write_atomically

    request, inputs = job.request, job.inputs
    rehearse(request.cells, inputs)
    store = Store.open(job.out or Path("runs") / f"{job.verb}-{_digest(request)}", request)
    if job.study:
        write_atomically(store.root / "study.json", job.study.encode())
    found = store.survey()
    for problem in found.foreign:
        console.say(problem)
    complete = fill(store, found, inputs, job.engine, console)
    if not complete and not store.survey().stored:
        raise typer.Exit(1)
    return store, complete


def fill(
    store: "RunStore", found: "Survey[Any]", inputs: "Workload", engine: "Engine | None", console: Console,
    unit: str = "network passes", ranges: str = "examples",
) -> bool:  # fmt: skip
    """Compute the cells that a store lacks, with a progress bar; say what was there and what failed.

    Args:
        store: where the results go.
        found: what is in it.
        inputs: what the cells name, and how they are computed.
        engine: who computes; None for this process.
        console: where to say it.
        unit: of the work.
        ranges: what the ranges of cells count.

    Returns:
        Whether all of them are there now.
    """
    from saplab.runs.engines.in_process import run

    for problem in found.damaged:
        console.say(f"{problem}; computing it again")
    if found.stored:
        every = counted(len(found.stored) + len(found.missing), "cell")
        console.say(f"{store.root}: {len(found.stored)} of {every} already there")
    if not found.missing:
        return True
    with console.progress(unit, sum(map(inputs.work, inputs.groups(found.missing)))) as advance:
        failed = run(store, inputs, advance, engine)
    _tell_failures(failed, store.root, console, ranges)
    return not failed


def _tell_failures(failed: "Sequence[Failed]", root: Path, console: Console, ranges: str) -> None:
    for failure in failed[:_MOST_FAILURES]:
        first = failure.group[0]
        console.say(f"failed after {failure.tries} tries: {ranges} {first.start}..{first.stop}: {failure.reason}")
    if failed:
        console.say(
            f"{len(failed)} groups of cells failed; saplab runs {root} lists them, and the same command retries"
        )


def prepare(device: str, threads: int | None) -> str:
    """Set PyTorch's threads, and give the device to compute on.

    Raises:
        ValueError: fewer than one thread, or a device that is not there.
    """
    import torch

    from saplab.system.device import find_device

    if threads is not None:
        if threads < 1:
            raise ValueError(f"`threads` must be >= 1, got {threads}")
        torch.set_num_threads(threads)
    return str(find_device(device))


def engine_of(
    name: str, workers: int | None, address: str | None, threads: int | None, device: str = "auto"
) -> "Engine":
    """Give the engine that the command line asks for.

    Args:
        name: ``local`` or ``ray``.
        workers: processes, or tasks at once; None for this process alone, or all that a cluster has room for.
        address: of a Ray cluster; None for one on this machine.
        threads: of PyTorch in each worker; by default the cores divided among the workers of this machine.
        device: ``auto``, ``cpu`` or ``cuda``, for the tasks of a cluster.

    Raises:
        ValueError: an unknown engine or device, no worker, an address for another engine, or Ray is not installed.
    """
    from saplab.runs.engines.in_process import InProcess
    from saplab.system.machine import usable_cores

    if name not in ENGINES:
        raise ValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {name!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be >= 1, got {workers}")
    if address is not None and name != "ray":
        raise ValueError(f"`address` is for `engine` ray, got {address!r} with {name}")
    if name == "ray" and device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"`device` of a Ray cluster's tasks must be auto, cpu or cuda, got {device!r}")
    share = max(1, usable_cores() // workers) if workers and address is None else 1
    if name == "ray":
        from saplab.runs.engines.ray import RayCluster, import_ray

        import_ray()
        return RayCluster(address, workers, threads or share, None if device == "auto" else device)
    if workers is None:
        return InProcess()
    from saplab.runs.engines.processes import Workers

    return Workers(workers, threads or share)


def show_plan(job: Job, console: Console) -> None:
    """Say what a job would compute: curves, network passes, and the longest time that they may take here."""
    from saplab.runs.groups import cost_of, groups
    from saplab.runs.images import rehearse

    request, inputs = job.request, job.inputs
    rehearse(request.cells, inputs)
    todo = groups(request.cells)
    costs = [cost_of(group) for group in todo]
    forward, backward = sum(cost.forward for cost in costs), sum(cost.backward for cost in costs)
    rate = _passes_per_second(job)
    curves, cells = counted(len(request.curves), "curve"), counted(len(request.cells), "cell")
    console.say(f"{curves}, {cells} in {counted(len(todo), 'group')} of shared images:")
    for curve in request.curves:
        console.say(f"  {curve.label}")
    console.say(f"at most {forward:,} forward and {backward:,} backward passes of one image through the network")
    minutes = (forward + 2 * backward) / rate / 60
    where = "in one process at the speed just measured"
    console.say(f"at most about {minutes:.1f} minutes {where}; images lost early take less")


def _passes_per_second(job: Job) -> float:
    """Time the heaviest network of the job, forward; a backward pass counts as two."""
    import torch

    from saplab.defenses import predict

    networks = {curve.cells[0].defender for curve in job.curves}
    model = job.inputs.network(max(networks, key=lambda network: len(network.defense)))
    images = job.data.images[:64].to(job.device)
    seconds = []
    with torch.no_grad():
        for passes in (1, 2, 2):
            begin = time.perf_counter()
            predict(model, images, passes)
            seconds.append((time.perf_counter() - begin) / passes)
    return len(images) / min(seconds)


def _digest(request: "Request") -> str:
    """Name a request by its cells, so that the same command finds its own folder again."""
    return hashlib.sha256("".join(cell.digest for cell in request.cells).encode()).hexdigest()[:10]

"""What evaluate and demo share: compute a job's cells with progress, print the table, write the report."""

import hashlib
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saplab.cli.console import Console

if TYPE_CHECKING:
    from torch import nn

    from saplab.data.dataset import Dataset
    from saplab.runs import Request, Store
    from saplab.studies import Curve


@dataclass(frozen=True)
class Job:
    """What to compute, with the networks and data that its cells name.

    Args:
        title: heading of the report.
        curves: one line of the chart each.
        models: plain networks by (model, digest).
        data: the data set.
        out: run folder; None for one named by the request under ``runs/``.
        verb: the command, for the folder's name.
    """

    title: str
    curves: "tuple[Curve, ...]"
    models: "Mapping[tuple[str, str], nn.Module]"
    data: "Dataset"
    out: Path | None
    verb: str


def compute_and_report(job: Job, console: Console) -> "Store":
    """Run what is missing of a job, then show and write its results."""
    from saplab.report import summarise, to_records, write_report

    store = compute(job, console)
    summary = summarise(store)
    finding = _finding(job, store)
    paths = write_report(store.root, finding=finding)
    if console.json:
        files = [str(path) for path in paths]
        rows = to_records(summary.rows)
        console.emit_json({"out": str(store.root), "finding": finding, "rows": rows, "files": files})
    console.show_rows(summary.rows)
    if finding:
        console.say(f"\n{finding}")
    console.say(f"\nReport: {store.root / 'report.html'}")
    return store


def compute(job: Job, console: Console) -> "Store":
    """Compute the job's missing cells, with a progress bar."""
    from saplab.runs import Request, Store
    from saplab.runs.local import Inputs, rehearse, run, work_of

    request = Request(job.title, job.curves, shlex.join(["saplab", *sys.argv[1:]]))
    inputs = Inputs(job.models, job.data)
    rehearse(request.cells, inputs)
    store = Store.open(job.out or Path("runs") / f"{job.verb}-{_digest(request)}", request)
    for problem in store.problems():
        console.say(f"{problem}; computing it again")
    missing = store.missing()
    done = len(request.cells) - len(missing)
    if done:
        console.say(f"{store.root}: {done} of {len(request.cells)} cells are there already")
    if missing:
        with console.progress("computing", sum(map(work_of, missing))) as advance:
            run(store, inputs, advance)
    return store


def _digest(request: "Request") -> str:
    """Name a request by its cells, so that the same command finds its own folder again."""
    return hashlib.sha256("".join(cell.digest for cell in request.cells).encode()).hexdigest()[:10]


def _finding(job: Job, store: "Store") -> str:
    """Say what the run shows, where its curves answer the question of the masked gradient."""
    import numpy as np

    from saplab.measures import correct
    from saplab.measures.masking import finding

    right = {}
    for curve in job.curves:
        results = [store.load(cell) for cell in curve.cells]
        right[curve.label] = np.concatenate([[correct(p, r.labels) for p in r.probs] for r in results], axis=1)
    kinds = {_kind(curve): right[curve.label] for curve in job.curves}
    return finding(job.curves[0].cells[0].strengths, kinds)


def _kind(curve: "Curve") -> str:
    cell = curve.cells[0]
    if not cell.defender.defense:
        return "dense"
    return str(cell.attack.get("backward", "")) if cell.adversary == cell.defender else "transfer"

"""How far a run is, from its folder alone: what is stored, what failed, who computes it, the time it still takes."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saplab.runs.cell import Curve, work_of
from saplab.runs.record import FailureNote, RunNote, failures, is_alive, last_run
from saplab.runs.request import Request
from saplab.runs.store import Store, Survey

State = Literal["finished", "running", "stopped"]


@dataclass(frozen=True)
class CurveProgress:
    """Stored cells of a curve, repeats with other seeds included, out of `total`."""

    label: str
    stored: int
    total: int


@dataclass(frozen=True)
class Failure:
    """A group of cells that the last run gave up after `tries`: its curve, its range, the reason of the last try."""

    label: str
    start: int
    stop: int
    reason: str
    tries: int


@dataclass(frozen=True)
class Progress:
    """How far the run in the folder `root` is.

    Attributes:
        state: whether all cells are stored, or a process that computes the others is there, or not.
        engine: where the last run computed; empty if none ever began.
        stored, total: cells.
        seconds_left: at the speed of the last run; None while that is unknown.
        failures: of the last run, those whose cells are still missing.
        problems: damaged and foreign files, and notes that cannot be read, one line each.
        ranges: what the ranges of cells count.
    """

    root: Path
    title: str
    command: str
    state: State
    engine: str
    stored: int
    total: int
    seconds_left: float | None
    curves: tuple[CurveProgress, ...]
    failures: tuple[Failure, ...]
    problems: tuple[str, ...]
    ranges: str


def progress_of(store: Store) -> Progress:
    """Return how far a run is; files of cells are read only where they are new to the index."""
    request, survey = store.request, store.survey()
    run, torn = last_run(store.root)
    failed, unread = failures(store.root)
    alive = is_alive(run)
    state: State = "finished" if not survey.missing else "running" if alive else "stopped"
    return Progress(
        store.root, request.title, request.command, state, run.engine if run else "",
        len(survey.stored), len(request.by_digest), _seconds_left(request, survey, run, alive),
        tuple(_curve_progress(curve, survey) for curve in request.curves), tuple(_failures(request, survey, failed)),
        (*survey.damaged, *survey.foreign, *torn, *unread), request.curves[0].first.ranges,
    )  # fmt: skip


def _curve_progress(curve: Curve, survey: Survey) -> CurveProgress:
    stored = [cell.digest in survey.stored for cell in curve.every_cell()]
    return CurveProgress(curve.name, sum(stored), len(stored))


def _seconds_left(request: Request, survey: Survey, run: RunNote | None, alive: bool) -> float | None:
    """Divide the work that is missing by the speed of the last run, from its start to its last cell, or to now."""
    if not survey.missing:
        return 0.0
    if run is None:
        return None
    times = {digest: nanoseconds / 1e9 for digest, nanoseconds in survey.stored.items()}
    new = [cell for digest, cell in request.by_digest.items() if times.get(digest, 0) >= run.started]
    if not new:
        return None
    end = time.time() if alive else max(times[cell.digest] for cell in new)
    return max(end - run.started, 0.0) * work_of(survey.missing) / max(work_of(new), 1)


def _failures(request: Request, survey: Survey, notes: Sequence[FailureNote]) -> Iterator[Failure]:
    labels: dict[str, str] = {}
    for curve in request.curves:
        for cell in curve.every_cell():
            labels.setdefault(cell.digest, curve.name)
    for note in notes:
        digest = note.cells[0]
        if digest in labels and digest not in survey.stored:
            cell = request.by_digest[digest]
            yield Failure(labels[digest], cell.start, cell.stop, note.reason, note.tries)

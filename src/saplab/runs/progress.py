"""How far a run is, from its folder alone: what is stored, what failed, who computes it, the time it still takes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal

from saplab.runs.cell import Cell, Curve
from saplab.runs.cellfiles import C, Survey
from saplab.runs.groups import groups, work_of
from saplab.runs.record import failures, is_alive, last_run
from saplab.runs.store import Store

State = Literal["finished", "running", "stopped"]


@dataclass(frozen=True)
class CurveProgress:
    """Stored cells of a curve, repeats with other seeds included, out of `total`."""

    label: str
    stored: int
    total: int


@dataclass(frozen=True)
class Failure:
    """A group of cells that the last run gave up.

    Args:
        label: of the first curve that asks for its first cell.
        start, stop: the range of its examples or episodes.
        reason: of the last try, in one line.
        tries: how often it was tried.
    """

    label: str
    start: int
    stop: int
    reason: str
    tries: int


@dataclass(frozen=True)
class Progress:
    """How far the run in the folder `root` is.

    Args:
        root, title, command: of the run.
        state: whether all cells are stored, or a process that computes the others is there, or not.
        engine: where the last run computed; empty if none ever began.
        stored, total: cells.
        seconds_left: at the speed of the last run; None while that is unknown.
        curves: in the request's order.
        failures: of the last run, those whose cells are still missing.
        problems: damaged and foreign files, one line each.
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
    ranges: str = "examples"


@dataclass(frozen=True)
class Plan(Generic[C]):
    """What a run folder was asked for, as far as its progress needs it.

    Args:
        root, title, command: of the run.
        curves: labels and their cells, in the request's order.
        work: of cells, in the unit that the time is proportional to.
        ranges: what the ranges of cells count.
    """

    root: Path
    title: str
    command: str
    curves: Sequence[tuple[str, tuple[C, ...]]]
    work: Callable[[Sequence[C]], int]
    ranges: str


def progress_of(store: Store) -> Progress:
    """Look how far a run is; reads files of cells only where they are new to the index."""
    request = store.request
    curves = [(curve.label, tuple(_cells(curve))) for curve in request.curves]
    return progress(Plan(store.root, request.title, request.command, curves, _work, "examples"), store.survey())


def progress(plan: Plan[C], survey: Survey[C]) -> Progress:
    """Say how far a run of any kind of cells is, by what is in its folder."""
    run, own = last_run(plan.root), {cell.digest: cell for _, cells in plan.curves for cell in cells}
    alive = is_alive(run)
    return Progress(
        plan.root,
        plan.title,
        plan.command,
        "finished" if not survey.missing else "running" if alive else "stopped",
        run.get("engine", ""),
        len(survey.stored),
        len(own),
        _seconds_left(plan, own, survey, run, alive),
        tuple(_curve_progress(label, cells, survey) for label, cells in plan.curves),
        tuple(_failures(plan, own, survey)),
        (*survey.damaged, *survey.foreign),
        plan.ranges,
    )


def _curve_progress(label: str, cells: Sequence[C], survey: Survey[C]) -> CurveProgress:
    return CurveProgress(label, sum(cell.digest in survey.stored for cell in cells), len(cells))


def _cells(curve: Curve) -> Iterator[Cell]:
    for cells in (curve.cells, *curve.repeats):
        yield from cells


def _work(cells: Sequence[Cell]) -> int:
    return sum(map(work_of, groups(cells)))


def _seconds_left(
    plan: Plan[C], own: Mapping[str, C], survey: Survey[C], run: Mapping[str, Any], alive: bool
) -> float | None:
    """Divide the work that is missing by the speed of the last run, from its start to its last cell, or to now."""
    if not survey.missing:
        return 0.0
    started = float(run.get("started", "inf"))
    times = {digest: nanoseconds / 1e9 for digest, nanoseconds in survey.stored.items()}
    new = [cell for digest, cell in own.items() if times.get(digest, 0) >= started]
    if not new:
        return None
    end = time.time() if alive else max(times[cell.digest] for cell in new)
    return max(end - started, 0.0) * plan.work(survey.missing) / max(plan.work(new), 1)


def _failures(plan: Plan[C], own: Mapping[str, C], survey: Survey[C]) -> Iterator[Failure]:
    labels: dict[str, str] = {}
    for label, cells in plan.curves:
        for cell in cells:
            labels.setdefault(cell.digest, label)
    for note in failures(plan.root):
        digest = note["cells"][0]
        if digest in labels and digest not in survey.stored:
            cell = own[digest]
            yield Failure(labels[digest], cell.start, cell.stop, note["reason"], note["tries"])

"""The numbers of a report, one row for a curve and a strength: table, chart, CSV and terminal all show these."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saplab.measures import Interval, correct, mean_interval, pass_shares
from saplab.runs import BrokenCellError, CellResult, Store
from saplab.studies import Cell, Curve

CSV_COLUMNS = (
    "curve",
    "strength",
    "images",
    "averaged_percent",
    "averaged_low",
    "averaged_high",
    "single_pass_percent",
    "single_pass_low",
    "single_pass_high",
    "paper_percent",
)


@dataclass(frozen=True)
class Row:
    """One curve at one strength.

    Args:
        curve: the curve's label.
        strength: λ in pixel steps of 0..255.
        averaged: accuracy of the prediction averaged over the passes.
        single: accuracy of single passes.
        paper: the paper's accuracy in %, where it exists.
    """

    curve: str
    strength: float
    averaged: Interval
    single: Interval
    paper: float | None = None


@dataclass(frozen=True)
class Summary:
    """All that a report says about a run's results.

    Args:
        rows: in the order of the request's curves and their strengths; none for a curve without a stored cell.
        made: how the stored cells were made, one entry a cell.
        finished, total: stored cells, and cells of the request.
        problems: damaged and foreign files, one line each.
    """

    rows: tuple[Row, ...]
    made: tuple[Mapping[str, Any], ...]
    finished: int
    total: int
    problems: tuple[str, ...]


def summarise(store: Store) -> Summary:
    """Compute the report's numbers from the stored cells, one cell in memory at a time.

    Raises:
        ValueError: if no cell is stored yet.
    """
    made: dict[str, Mapping[str, Any]] = {}
    rows = tuple(row for curve in store.request.curves for row in _curve_rows(store, curve, made))
    if not made:
        raise ValueError(f"{store.root} holds no finished cell yet, so there is nothing to report; run it first")
    return Summary(rows, tuple(made.values()), len(made), len(store.request.cells), tuple(store.problems()))


def to_csv(rows: Iterable[Row]) -> str:
    """Give the rows as CSV text with a header; accuracies in %."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(_csv_fields(row) for row in rows)
    return text.getvalue()


def to_records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Give the rows as JSON objects with the names of the CSV's columns; no paper's number is None."""
    return [dict(zip(CSV_COLUMNS, _fields(row), strict=True)) for row in rows]


def strength_text(strength: float) -> str:
    """Write a strength without a needless fraction: 8.0 is ``8``."""
    return f"{strength:g}"


def _curve_rows(store: Store, curve: Curve, made: dict[str, Mapping[str, Any]]) -> list[Row]:
    hits, shares, passes = [], [], 1
    for cell, result in _stored(store, curve.cells):
        made[cell.digest] = result.made
        hits.append([correct(probs, result.labels) for probs in result.probs])
        shares.append([pass_shares(votes, result.labels) for votes in result.votes])
        passes = max(passes, cell.passes)
    if not hits:
        return []
    averaged = [mean_interval(scores) for scores in np.concatenate(hits, axis=1)]
    single = [mean_interval(scores, passes) for scores in np.concatenate(shares, axis=1)]
    strengths = curve.cells[0].strengths
    measured = zip(strengths, averaged, single, strict=True)
    return [Row(curve.label, lam, a, s, curve.paper.get(lam)) for lam, a, s in measured]


def _stored(store: Store, cells: Sequence[Cell]) -> Iterator[tuple[Cell, CellResult]]:
    for cell in cells:
        try:
            yield cell, store.load(cell)
        except (FileNotFoundError, BrokenCellError):
            continue


def _fields(row: Row) -> list[Any]:
    averaged = [round(100 * share, 4) for share in (row.averaged.estimate, row.averaged.low, row.averaged.high)]
    single = [round(100 * share, 4) for share in (row.single.estimate, row.single.low, row.single.high)]
    return [row.curve, row.strength, row.averaged.n, *averaged, *single, row.paper]


def _csv_fields(row: Row) -> list[Any]:
    return ["" if field is None else field for field in _fields(row)]

"""The numbers of a report, one row for a curve and a strength: table, chart, CSV and terminal all show these."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from saplab.evaluation.plan import is_across
from saplab.metrics import Counts, Interval, OverSeeds, correct, count, over_seeds
from saplab.runs import BrokenCellError, CellResult, Store
from saplab.runs.cell import Cell, Curve
from saplab.runs.store import join

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
    "majority_percent",
    "all_of_10_percent",
    "any_of_10_percent",
    "seeds",
    "over_seeds_low",
    "over_seeds_high",
    "paper_percent",
    "figure",
)

_MOST_SHOWN: Final = 7  # curves of one chart
_WORST_AT: Final = 4.0  # λ at which a network's curves are compared


@dataclass(frozen=True)
class Row:
    """One curve at one strength.

    Args:
        curve: the curve's label.
        strength: λ in pixel steps of 0..255.
        counts: accuracy of the prediction averaged over the passes, of single ones, and counted otherwise.
        seeds: the averaged accuracy over several seeds of the defence, where there are several.
        paper: the paper's accuracy in %, where it exists.
        across: whether it is the undefended network on images made for the defended one.
        figure: name of the figure that the curve belongs to; "" where a run has but one.
    """

    curve: str
    strength: float
    counts: Counts
    seeds: OverSeeds | None = None
    paper: float | None = None
    across: bool = False
    figure: str = ""

    @property
    def averaged(self) -> Interval:
        """Give the accuracy of the prediction averaged over the passes."""
        return self.counts.averaged

    @property
    def single(self) -> Interval:
        """Give the accuracy of single passes."""
        return self.counts.single_pass


@dataclass(frozen=True)
class Summary:
    """All that a report says about a run's results.

    Args:
        rows: in the order of the request's curves and their strengths; none for a curve without a stored cell.
        made: how the stored cells were made, one entry a cell.
        finished, total: stored cells, and cells of the request.
        problems: damaged and foreign files, one line each.
        shown: labels of the curves that a chart draws at first: all where they are few, else the telling ones.
    """

    rows: tuple[Row, ...]
    made: tuple[Mapping[str, Any], ...]
    finished: int
    total: int
    problems: tuple[str, ...]
    shown: tuple[str, ...]


def summarise(store: Store) -> Summary:
    """Compute the report's numbers from the stored cells, one cell in memory at a time.

    Raises:
        ValueError: if no cell is stored yet.
    """
    made: dict[str, Mapping[str, Any]] = {}
    rows = tuple(row for curve in store.request.curves for row in _curve_rows(store, curve, made))
    if not made:
        raise ValueError(f"{store.root} holds no finished cell yet, so there is nothing to report; run it first")
    problems, shown = tuple(store.problems()), _shown(store.request.curves, rows)
    return Summary(rows, tuple(made.values()), len(made), len(store.request.cells), problems, shown)


def to_csv(rows: Iterable[Row]) -> str:
    """Give the rows as CSV text with a header; accuracies in %."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(_csv_fields(row) for row in rows)
    return text.getvalue()


def to_parquet(rows: Iterable[Row]) -> bytes:
    """Give the rows as a Parquet file with the columns of the CSV; accuracies in %, what there is not is null."""
    import pyarrow
    import pyarrow.parquet

    types = {"curve": pyarrow.string(), "figure": pyarrow.string(), "images": pyarrow.int64(), "seeds": pyarrow.int64()}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in CSV_COLUMNS])
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(to_records(rows), schema), content)
    return content.getvalue()


def to_records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Give the rows as JSON objects with the names of the CSV's columns; no paper's number is None."""
    return [dict(zip(CSV_COLUMNS, _fields(row), strict=True)) for row in rows]


def strength_text(strength: float) -> str:
    """Write a strength without a needless fraction: 8.0 is ``8``."""
    return f"{strength:g}"


def _shown(curves: Sequence[Curve], rows: Sequence[Row]) -> tuple[str, ...]:
    """Choose the curves to draw: of many, noise, the largest of each one-step family, each network's worst curve."""
    drawn = {row.curve: row for row in rows if not row.across}
    if len(drawn) <= _MOST_SHOWN:
        return tuple(drawn)
    cells = {curve.label: curve.cells[0] for curve in curves if curve.label in drawn}
    one_step = ((label, cell) for label, cell in sorted(cells.items(), key=_samples) if _is_one_step(cell))
    families = {(cell.defender, cell.crafting): label for label, cell in one_step}
    worst = {
        cells[row.curve].defender: row.curve
        for row in sorted(rows, key=lambda row: -row.averaged.estimate)
        if row.curve in cells and row.strength == min(_WORST_AT, max(cells[row.curve].strengths))
    }
    return tuple(label for label in drawn if label in {*families.values(), *worst.values()})


def _samples(curve: tuple[str, Cell]) -> int:
    return int(curve[1].attack.get("samples", 1))


def _is_one_step(cell: Cell) -> bool:
    return cell.attack["name"] in ("noise", "fgsm")


def _curve_rows(store: Store, curve: Curve, made: dict[str, Mapping[str, Any]]) -> list[Row]:
    first = _joined(store, curve.cells, made)
    if first is None:
        return []
    others = [_joined(store, cells, made) for cells in curve.repeats]
    repeats = [other for other in others if other is not None and other.labels.shape == first.labels.shape]
    across = is_across(curve.cells[0])
    return [
        Row(curve.label, strength, count(first.probs[k], first.votes[k], first.labels),
            _over_seeds([first, *repeats], k), curve.paper.get(strength), across, curve.figure)
        for k, strength in enumerate(curve.cells[0].strengths)
    ]  # fmt: skip


def _over_seeds(results: Sequence[CellResult], k: int) -> OverSeeds | None:
    """Compare the seeds at the strength with number k."""
    if len(results) < 2 or len(results[0].labels) < 2:
        return None
    return over_seeds([correct(result.probs[k], result.labels) for result in results])


def _joined(store: Store, cells: Sequence[Cell], made: dict[str, Mapping[str, Any]]) -> CellResult | None:
    """Join the results that are there, and note how they were made; None where there are none."""
    results = []
    for cell, result in _stored(store, cells):
        made[cell.digest] = result.made
        results.append(result)
    return join(results) if results else None


def _stored(store: Store, cells: Sequence[Cell]) -> Iterator[tuple[Cell, CellResult]]:
    for cell in cells:
        try:
            yield cell, store.load(cell)
        except (FileNotFoundError, BrokenCellError):
            continue


def _fields(row: Row) -> list[Any]:
    counts = row.counts
    ways = [None if way is None else _percent(way.estimate) for way in (counts.majority, counts.in_all, counts.in_any)]
    seeds = [row.seeds.seeds, *_percents(row.seeds.combined)[1:]] if row.seeds else [1, None, None]
    first = [row.curve, row.strength, row.averaged.n, *_percents(row.averaged), *_percents(row.single)]
    return [*first, *ways, *seeds, row.paper, row.figure]


def _percents(interval: Interval) -> list[float]:
    return [_percent(share) for share in (interval.estimate, interval.low, interval.high)]


def _percent(share: float) -> float:
    return round(100 * share, 4)


def _csv_fields(row: Row) -> list[Any]:
    return ["" if field is None else field for field in _fields(row)]

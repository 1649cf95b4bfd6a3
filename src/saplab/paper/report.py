"""The report of a study: every figure beside the paper's numbers, and each claim judged, on one offline page."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt

from saplab.evaluation.findings import calibration_rows, reliability_records, whole
from saplab.evaluation.pictures import examples
from saplab.evaluation.report import DARK, machine, table, template, vega
from saplab.evaluation.rows import Row, Summary, summarise, to_csv, to_parquet
from saplab.paper.claims import Judged, Outcome, judge
from saplab.paper.study import Figure, from_json
from saplab.report.charts import PAGE, PAPER, accuracy_chart, swatches, to_bytes
from saplab.report.figures import against_chart, reliability_chart
from saplab.report.markdown import study_text
from saplab.runs import CellResult, Store
from saplab.runs.cell import Curve
from saplab.system.files import write_atomically
from saplab.system.words import counted

STUDY = "study.json"
_CALIBRATED = "fig4"


@dataclass(frozen=True)
class StudyReport:
    """What was written of a study, and what it says.

    Args:
        files: the page first.
        summary: all rows.
        judged: (figure's name, judged claim).
    """

    files: tuple[Path, ...]
    summary: Summary
    judged: tuple[tuple[str, Judged], ...]

    @property
    def tally(self) -> str:
        """Count the outcomes in a sentence."""
        return tally(self.judged)


def is_study(root: Path | str) -> bool:
    """Tell whether a run folder holds a study."""
    return (Path(root) / STUDY).is_file()


def write_study(root: Path | str, title: str = "") -> StudyReport:
    """Write a study's report into its folder.

    That is ``report.html``; ``results.md``, the same without a browser; the numbers as CSV and Parquet; and
    ``figures/`` as SVG and PDF.

    Raises:
        FileNotFoundError: if `root` is no run folder of a study.
        ValueError: if no cell is stored yet, or the folder's ``study.json`` cannot be read.
        OSError: if a file cannot be written; those before it are whole.
    """
    store = Store.read(root)
    figures = from_json((store.root / STUDY).read_text(encoding="utf-8"))
    summary = summarise(store)
    sections = [_section(store, figure, summary) for figure in figures]
    judged = tuple((figure.name, found) for figure in figures for found in _judged(store, figure))
    title = title or store.request.title
    contents = {"report.html": _render(store, summary, sections, judged, title).encode(),
                "results.md": _markdown(store, summary, sections, judged, title).encode(),
                "accuracy.csv": to_csv(summary.rows).encode(),
                "accuracy.parquet": to_parquet(summary.rows)}  # fmt: skip
    for section in sections:
        for name, chart in section.charts(PAPER).items():
            for kind in ("svg", "pdf"):
                contents[f"figures/{name}.{kind}"] = to_bytes(chart, kind)
    (store.root / "figures").mkdir(exist_ok=True)
    for name, content in contents.items():
        write_atomically(store.root / name, content)
    return StudyReport(tuple(store.root / name for name in contents), summary, judged)


@dataclass(frozen=True)
class _Section:
    """A figure with its rows, its reliability diagrams where it is about calibration, and what it shows `against`."""

    name: str
    title: str
    rows: tuple[Row, ...]
    diagrams: tuple[dict[str, Any], ...]
    points: tuple[dict[str, Any], ...]
    against: str

    def charts(self, theme: Any) -> dict[str, alt.TopLevelMixin]:
        """Give the section's charts by the name of their files."""
        if not self.rows:
            return {}
        title = "" if theme is PAGE else self.title
        found: dict[str, alt.TopLevelMixin] = {self.name: accuracy_chart(self.rows, theme, title)}
        if self.points:
            found[f"{self.name}-against"] = against_chart(self.points, self.against, theme)
        if self.diagrams:
            found[f"{self.name}-reliability"] = reliability_chart(self.diagrams, theme)
        return found

    def context(self) -> dict[str, Any]:
        """Give what the page's template shows."""
        drawing = to_bytes(self.charts(PAPER)[self.name], "svg").decode() if self.rows else ""
        return {
            "name": self.name,
            "title": self.title,
            "rows": self.rows,
            "drawing": drawing,
            "swatches": swatches(self.rows) if self.rows else [],
            "against": self.against if self.points else "",
            "reliability": bool(self.diagrams),
            "table": table(self.rows),
            "strengths": sorted({row.strength for row in self.rows}),
        }


def _section(store: Store, figure: Figure, summary: Summary) -> _Section:
    rows = tuple(row for row in summary.rows if row.figure == figure.name)
    diagrams: tuple[dict[str, Any], ...] = ()
    if figure.name == _CALIBRATED or any(claim.relation == "better calibrated" for claim in figure.claims):
        finished = _finished(store, figure)
        found = [row for curve, result in finished.values() for row in calibration_rows(curve, result)]
        diagrams = tuple(reliability_records(found))
    return _Section(figure.name, figure.title, rows, diagrams, tuple(_points(figure, rows)), figure.against)


def _points(figure: Figure, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Give the points of the chart of accuracy against what the figure's lines differ in."""
    lines = {line.label: line for line in figure.lines if figure.against and line.at is not None}
    for row in rows:
        if row.curve in lines:
            line, shown = lines[row.curve], row.averaged
            percent = {"percent": 100 * shown.estimate, "from": 100 * shown.low, "to": 100 * shown.high}
            yield {"value": line.at, "strength": row.strength, "series": line.series, **percent}


def _finished(store: Store, figure: Figure) -> dict[str, tuple[Any, CellResult]]:
    """Give the figure's finished curves with their joined results, by label."""
    own = (curve for curve in store.request.curves if curve.figure == figure.name)
    return {curve.label: (curve, joined) for curve in own if (joined := whole(store, curve)) is not None}


def _judged(store: Store, figure: Figure) -> list[Judged]:
    finished = _finished(store, figure) if figure.claims else {}
    curves = {label: curve for label, (curve, _) in finished.items()}
    results = {label: result for label, (_, result) in finished.items()}
    return [judge(claim, curves, results) for claim in figure.claims]


def tally(judged: Sequence[tuple[str, Judged]]) -> str:
    """Count the outcomes of claims in a sentence."""
    counts = Counter(found.outcome for _, found in judged)
    words: dict[Outcome, tuple[str, str]] = {
        "holds": ("holds", "hold"),
        "does not hold": ("does not", "do not"),
        "unclear": ("stays unclear", "stay unclear"),
        "not computed": ("was not computed", "were not computed"),
    }
    parts = [f"{counts[it]} {verbs[counts[it] > 1]}" for it, verbs in words.items() if counts[it]]
    return f"Of {counted(len(judged), 'claim')}, {', '.join(parts)}."


def _firsts(curves: Sequence[Curve]) -> list[Curve]:
    """Give each figure's first two curves, named with their figure."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.figure, []).append(replace(curve, label=f"{curve.figure}: {curve.label}"))
    return [curve for own in found.values() for curve in own[:2]]


def _markdown(
    store: Store, summary: Summary, sections: Sequence[_Section], judged: Sequence[tuple[str, Judged]], title: str
) -> str:
    shown = ((section.title, section.charts(PAPER), section.rows) for section in sections)
    return study_text(title, store.request.command, tally(judged), judged, shown, machine(summary.made))


def _render(
    store: Store, summary: Summary, sections: Sequence[_Section], judged: Sequence[tuple[str, Judged]], title: str
) -> str:
    charts: Mapping[str, Any] = {
        f"chart-{name}": chart.to_dict() for section in sections for name, chart in section.charts(PAGE).items()
    }
    return template("study.html").render(
        title=title,
        command=store.request.command,
        summary=summary,
        sections=[section.context() for section in sections],
        judged=judged,
        tally=tally(judged),
        charts=charts,
        bundle=vega(),
        themes={"light": PAPER, "dark": DARK},
        examples=examples(store, _firsts(store.request.curves)),
        machine=machine(summary.made),
    )

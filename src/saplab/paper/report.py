"""The report of a study: every figure beside the paper's numbers, and each claim judged, on one offline page."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from saplab.evaluation.pictures import examples
from saplab.evaluation.rows import Summary, summarise
from saplab.paper.claims import Judged, Measured, Outcome, judge, measured
from saplab.paper.sections import GameSection, Section, section_of
from saplab.paper.study import Figure, load_figures
from saplab.report.charts import DARK, PAGE, PAPER, Theme, to_bytes
from saplab.report.games import points_chart
from saplab.report.markdown import change_text, drawing_text, page_text, paragraphs, pivot_text, table_text
from saplab.report.page import machine, template, vega
from saplab.report.tables import pivot, strength_text, to_csv, to_parquet
from saplab.runs import Curve, GameCell, Results, Store
from saplab.system.files import write_atomically
from saplab.system.words import counted


@dataclass(frozen=True)
class StudyReport:
    """What was written of a study, and what it says.

    Attributes:
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

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Return the judged claims as plain values."""
        return [{"figure": figure, **found.record()} for figure, found in self.judged]


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


def write_study(store: Store, title: str = "") -> StudyReport:
    """Write a study's report into its folder, finished or not.

    That is ``report.html``; ``results.md``, the same without a browser; the numbers as CSV and Parquet
    (``accuracy``, of games ``table1``); and ``figures/`` as SVG and PDF.

    Raises:
        FileNotFoundError: the store's folder holds no study.
        ValueError: no cell is stored yet, or the folder's ``study.json`` cannot be read.
        OSError: a file cannot be written; those before it are whole.
    """
    figures = load_figures(store.root)
    summary = summarise(store)
    judged = tuple((figure.name, found) for figure in figures for found in _judged(store, figure))
    sections = [section_of(store, figure, summary) for figure in figures]
    study = _Study(store, summary, sections, judged, title or store.request.title)
    contents = {"report.html": study.page().encode(), "results.md": study.markdown().encode()}
    for name, rows in (("accuracy", summary.images), ("table1", summary.games)):
        if records := [row.record() for row in rows]:
            contents |= {f"{name}.csv": to_csv(records).encode(), f"{name}.parquet": to_parquet(records)}
    for name, chart in study.charts(PAPER).items():
        contents |= {f"figures/{name}.svg": to_bytes(chart, "svg"), f"figures/{name}.pdf": to_bytes(chart, "pdf")}
    (store.root / "figures").mkdir(exist_ok=True)
    for name, content in contents.items():
        write_atomically(store.root / name, content)
    return StudyReport(tuple(store.root / name for name in contents), summary, judged)


def _judged(store: Results, figure: Figure) -> Iterator[Judged]:
    own = {curve.label: curve for curve in store.request.curves if curve.figure == figure.name}
    found: dict[str, Measured] = {}
    for claim in figure.claims:
        for label in (claim.first, claim.second):
            if label not in found:
                found[label] = measured(store, own[label]) if label in own else {}
        yield judge(claim, found[claim.first], found[claim.second])


@dataclass(frozen=True)
class _Study:
    """A study as its page and its Markdown show it."""

    store: Results
    summary: Summary
    sections: Sequence[Section]
    judged: Sequence[tuple[str, Judged]]
    title: str

    @cached_property
    def games(self) -> list[GameSection]:
        """Return the sections of games."""
        return [section for section in self.sections if isinstance(section, GameSection)]

    @property
    def claims(self) -> list[tuple[Section, Judged]]:
        """Return the judged claims with the sections of their figures."""
        by_name = {section.figure.name: section for section in self.sections}
        return [(by_name[name], found) for name, found in self.judged]

    def charts(self, theme: Theme) -> dict[str, Any]:
        """Return all charts by the names of their files."""
        found = {name: chart for section in self.sections for name, chart in section.charts(theme).items()}
        points = [{**row.record(), "game": section.figure.title} for section in self.games for row in section.rows]
        return found | ({"points": points_chart(points, theme)} if points else {})

    def markdown(self) -> str:
        """Return all as Markdown."""
        parts = [self._claims_text(), self._changes_text(), *(section.markdown() for section in self.sections)]
        return page_text(self.title, parts, self.store.request.command, machine(self.summary.made))

    def _claims_text(self) -> str:
        if not self.judged:
            return ""
        place, line = ("game", "agent") if self.games else ("figure", "curve")
        columns = ("claim", place, "found", f"evidence: first {line} minus second")
        rows = ((one.claim.text, section.place, f"**{one.outcome}**", one.text) for section, one in self.claims)
        return paragraphs(tally(self.judged), table_text(columns, rows, mark="---"))

    def _changes_text(self) -> str:
        """Return the drawing of points, and Table 1 itself."""
        drawing = drawing_text("Mean points against strength", "points") if self.summary.games else ""
        rows = [row for section in self.games for row in section.changes.values()]
        if not rows:
            return drawing
        titles = {section.figure.name: section.figure.title for section in self.games}
        rows.sort(key=lambda row: row.strength)
        table = pivot(rows, lambda row: strength_text(row.strength), lambda row: titles[row.figure])
        text = pivot_text("λ", table, lambda row: change_text(row.change, row.compared, row.paper), "{}, %")
        heading = "## Relative change of the mean points, SAP-100 against the original agent"
        return paragraphs(drawing, heading, text)

    def page(self) -> str:
        """Return the page's HTML."""
        charts = self.charts(PAGE)
        points = charts.pop("points", None)
        return template("study.html").render(
            title=self.title,
            command=self.store.request.command,
            summary=self.summary,
            sections=self.sections,
            claims=self.claims,
            games=self.games,
            tally=tally(self.judged),
            charts={f"chart-{name}": chart.to_dict() for name, chart in charts.items()},
            points=to_bytes(points, "svg").decode() if points else "",
            bundle=vega() if charts else "",
            themes={"light": PAPER, "dark": DARK},
            examples=examples(self.store, _firsts(self.store.request.curves)),
            played=_played(self.store.request.curves),
            machine=machine(self.summary.made),
        )


def _firsts(curves: Sequence[Curve]) -> list[Curve]:
    """Return each figure's first two curves, named with their figure."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.figure, []).append(replace(curve, label=f"{curve.figure}: {curve.label}"))
    return [curve for own in found.values() for curve in own[:2]]


def _played(curves: Sequence[Curve]) -> Mapping[str, Any]:
    """Return how much was played for a number, and how; nothing of images."""
    games = [curve for curve in curves if isinstance(curve.first, GameCell)]
    if not games:
        return {}
    cells = [cell for curve in games for cell in curve.cells]
    same = list(games[0].cells_at(games[0].eps[0]))
    return {
        "games": sum(cell.stop - cell.start for cell in same),
        "seeds": len(games[0].seeds),
        "first": games[0].first,
        "samples": max(cell.attack.samples for cell in cells if cell.attack is not None),
        "passes": max(cell.passes for cell in cells),
    }

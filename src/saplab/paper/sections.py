"""The sections of a study's report: a figure of images or of games, as charts, in Markdown and on the page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import altair as alt

from saplab.attacks import ThreatModel
from saplab.evaluation.findings import CalibrationRow, calibration_rows, finished_curves, reliability_records
from saplab.evaluation.report import axis_of, by_curve, chart_records
from saplab.evaluation.rows import GameRow, Row, Summary, scores_at
from saplab.metrics.scores import score_difference
from saplab.paper.study import Figure, threat_of
from saplab.report.calibration import reliability_chart
from saplab.report.charts import PAGE, PAPER, Theme, accuracy_chart, swatches, to_bytes
from saplab.report.markdown import accuracy_text, drawing_text, escaped, paragraphs, pivot_text, score_text
from saplab.report.sweeps import against_chart
from saplab.report.tables import pivot, strength_text
from saplab.runs import Curve, Results

_CALIBRATED: Final = "fig4"
_OF_CALIBRATION: Final = frozenset({"better calibrated", "calibrated", "not calibrated"})
_KINDS: Final = {
    "-against": "against {}",
    "-reliability": "accuracy against confidence",
}  # of a figure's further charts


@dataclass(frozen=True)
class ImageSection:
    """A figure of images: its rows, and how well its curves are calibrated where it is about that."""

    figure: Figure
    rows: tuple[Row, ...]
    calibration: tuple[CalibrationRow, ...] = ()

    @property
    def threat(self) -> ThreatModel:
        """Return norm and bounds in which the radii are measured."""
        return threat_of(self.figure)

    @property
    def table(self) -> dict[str, dict[float, Row]]:
        """Return the rows by curve and radius, as people read it."""
        return by_curve(self.rows)

    @property
    def errors(self) -> dict[str, dict[float, CalibrationRow]]:
        """Return the calibration by curve and radius."""
        return pivot(self.calibration, lambda row: row.curve, lambda row: row.strength)

    @property
    def against(self) -> list[dict[str, Any]]:
        """Return the points of the chart of accuracy against what the lines differ in."""
        lines = {line.label: line for line in self.figure.lines if self.figure.against and line.at is not None}
        return [
            {"value": lines[row.curve].at, "strength": row.strength, "series": lines[row.curve].series,
             "percent": 100 * row.averaged.estimate, "from": 100 * row.averaged.low, "to": 100 * row.averaged.high}
            for row in self.rows
            if row.curve in lines
        ]  # fmt: skip

    def charts(self, theme: Theme) -> dict[str, alt.TopLevelMixin]:
        """Return the charts by the names of their files."""
        name, title = self.figure.name, "" if theme is PAGE else self.figure.title
        found: dict[str, alt.TopLevelMixin] = {}
        if self.rows:
            found[name] = accuracy_chart(chart_records(self.rows), theme, title, axis=axis_of(self.rows))
        if self.against:
            found[f"{name}-against"] = against_chart(self.against, self.figure.against, theme, self.threat.symbol)
        if self.calibration:
            records = reliability_records(self.calibration)
            found[f"{name}-reliability"] = reliability_chart(records, theme, self.threat.symbol)
        return found

    @property
    def drawings(self) -> dict[str, str]:
        """Return the charts as SVG, for a page without JavaScript."""
        return {name: to_bytes(chart, "svg").decode() for name, chart in self.charts(PAPER).items()}

    def alt(self, name: str) -> str:
        """Return what the chart of that name shows."""
        kind = _KINDS.get(name.removeprefix(self.figure.name), "")
        return f"{self.figure.title}{kind and ': ' + kind.format(self.figure.against)}"

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """Return the label, colour and shape of each curve."""
        return swatches(chart_records(self.rows))

    def markdown(self) -> str:
        """Return the section as Markdown."""
        title = self.figure.title
        numbers = pivot_text("accuracy, %", self.table, lambda row: accuracy_text(row.averaged, row.paper),
                              f"{self.threat.symbol} = {{:g}}")  # fmt: skip
        drawings = (drawing_text(self.alt(name), name) for name in self.charts(PAPER))
        errors = pivot_text("expected calibration error, %", self.errors, lambda row: accuracy_text(row.averaged.ece),
                            f"{self.threat.symbol} = {{:g}}")  # fmt: skip
        return paragraphs(
            f"## {escaped(title)}", escaped(self.figure.note), *drawings, numbers if self.rows else "Not computed.",
            errors if self.calibration else "",
        )  # fmt: skip


@dataclass(frozen=True)
class GameSection:
    """A figure of games: its rows, the curve whose changes Table 1 is about, if any, and where nothing is left.

    Attributes:
        random: by curve, λ at which its points are not shown to be above those of random play; whether they are below.
    """

    figure: Figure
    rows: tuple[GameRow, ...]
    main: Curve | None
    random: Mapping[str, Mapping[float, bool]] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, dict[float, GameRow]]:
        """Return the rows by curve and λ."""
        return pivot(self.rows, lambda row: row.curve, lambda row: row.strength)

    @property
    def changes(self) -> dict[float, GameRow]:
        """Return the rows of the main curve by λ."""
        return self.table.get(self.main.label, {}) if self.main else {}

    @property
    def no_better(self) -> str:
        """Return in words where an agent plays as at random; empty where none does, and where that is not known."""
        found = "; ".join(f"{curve} at λ = {_listed(at)}{_worse(at)}" for curve, at in self.random.items())
        return found and f"Not shown to play better than at random (Welch's test, 95 %): {found}."

    def markdown(self) -> str:
        """Return the section as Markdown."""
        points = pivot_text("mean points", self.table, lambda row: score_text(row.score))
        return paragraphs(
            f"## {escaped(self.figure.title)}", escaped(self.figure.note), points if self.rows else "Not played.",
            escaped(self.no_better),
        )  # fmt: skip


Section = ImageSection | GameSection


def _listed(strengths: Iterable[float]) -> str:
    return ", ".join(map(strength_text, strengths))


def _worse(at: Mapping[float, bool]) -> str:
    below = [strength for strength, worse in at.items() if worse]
    return f" (worse at {_listed(below)})" if below else ""


def _at_random(
    store: Results, random: Sequence[float], curves: Sequence[Curve], rows: Sequence[GameRow]
) -> dict[str, dict[float, bool]]:
    """Return by curve λ at which points are not shown to be above those of random play, and whether they are below."""
    by_label = {curve.label: curve for curve in curves}
    found: dict[str, dict[float, bool]] = {}
    for row in rows if random else ():
        scores = scores_at(store, by_label[row.curve], row.eps)
        above = score_difference(scores, random) if scores else None
        if above is None or above.low <= 0:
            found.setdefault(row.curve, {})[row.strength] = above is not None and above.high < 0
    return found


def section_of(store: Results, figure: Figure, summary: Summary) -> Section:
    """Return a figure with its numbers."""
    own = [curve for curve in store.request.curves if curve.figure == figure.name]
    if own and own[0].first.kind == "games":
        played = tuple(row for row in summary.games if row.figure == figure.name)
        main = next((curve for curve in own if curve.against), None)
        return GameSection(figure, played, main, _at_random(store, figure.random, own, played))
    rows = tuple(row for row in summary.images if row.figure == figure.name)
    calibrated = figure.name == _CALIBRATED or any(claim.relation in _OF_CALIBRATION for claim in figure.claims)
    finished = finished_curves(store, own) if calibrated else ()
    return ImageSection(figure, rows, tuple(row for one in finished for row in calibration_rows(one.curve, one.result)))

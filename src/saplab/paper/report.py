"""The report of a study: every figure beside the paper's numbers, and each claim judged, on one offline page."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from saplab.attacks import strength_of
from saplab.evaluation.pictures import examples
from saplab.evaluation.rows import GameRow, Summary, summarise
from saplab.paper.claims import Judged, Outcome, judge, measured
from saplab.paper.sections import GameSection, ImageSection, Section, section_of
from saplab.paper.study import Figure, load_figures, threat_of
from saplab.report.charts import DARK, PAGE, PAPER, Theme, to_bytes
from saplab.report.games import points_chart
from saplab.report.markdown import change_text, drawing_text, escaped, page_text, pivot_text, table_text
from saplab.report.page import machine, template, vega
from saplab.report.tables import pivot, strength_text, to_csv, to_parquet
from saplab.runs import Curve, GameCell, Request, Results, Store
from saplab.system.folder import inside, write_files
from saplab.system.words import counted

_POINTS: Final = "points"  # the chart of games, for which no figure of games is named
_OUTCOMES: Final[dict[Outcome, tuple[str, str]]] = {  # of one claim, of several
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "unclear": ("stays unclear", "stay unclear"),
    "not computed": ("was not computed", "were not computed"),
}


@dataclass(frozen=True)
class StudyReport:
    """What a study shows, with each judged claim behind the name of its figure, and the files that hold it."""

    request: Request
    title: str
    summary: Summary
    sections: tuple[Section, ...]
    judged: tuple[tuple[str, Judged], ...]
    files: tuple[Path, ...] = ()

    @property
    def tally(self) -> str:
        """Count the outcomes of the claims in a sentence; empty without claims."""
        counts = Counter(found.outcome for _, found in self.judged)
        parts = [f"{counts[it]} {verbs[counts[it] > 1]}" for it, verbs in _OUTCOMES.items() if counts[it]]
        return f"Of {counted(len(self.judged), 'claim')}, {', '.join(parts)}." if self.judged else ""

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Return the judged claims as plain values."""
        return [{"figure": name, **msgspec.to_builtins(found)} for name, found in self.judged]

    @property
    def games(self) -> list[GameSection]:
        """Return the sections of games."""
        return [section for section in self.sections if isinstance(section, GameSection)]

    @property
    def played(self) -> str:
        """Return in words how much was played for a number, and how; empty where nothing is."""
        return _played(self.request.curves, self.summary.games)

    @property
    def beside_the_paper(self) -> str:
        """Count how many of the paper's changes lie within the intervals of those measured; empty without any."""
        rows = (row for section in self.games for row in section.changes.values())
        changes = [(row.change, row.paper) for row in rows if row.paper is not None]
        known = [(change, paper) for change, paper in changes if change is not None]
        inside = sum(change.low <= paper <= change.high for change, paper in known)
        if not changes:
            return ""
        return (
            f"Of the paper's {counted(len(changes), 'change')}, of its own agents, {inside} lie within the 95 %"
            f" interval of the one measured here, {len(known) - inside} outside, and {len(changes) - len(known)} have"
            " none to lie in."
        )

    def charts(self, theme: Theme) -> dict[str, Any]:
        """Return all charts by the names of their files."""
        images = (section for section in self.sections if isinstance(section, ImageSection))
        found = {name: chart for section in images for name, chart in section.charts(theme).items()}
        points = [{**row.record(), "game": row.figure} for row in self.summary.games]
        return found | ({_POINTS: points_chart(points, theme)} if points else {})

    def markdown(self) -> str:
        """Return all as Markdown."""
        told = map(escaped, self.request.notes)
        sections = (section.markdown() for section in self.sections)
        parts = [*told, *self._claims(), *self._changes(), *filter(None, [self.played]), *sections]
        return page_text(self.title, parts, self.request.command, machine(self.summary.made))

    def _claims(self) -> Iterator[str]:
        if self.judged:
            place, line = ("game", "agent") if self.games else ("figure", "curve")
            columns = ("claim", place, "found", f"evidence: the first {line} minus the second")
            rows = (
                (escaped(one.claim.text), escaped(name), f"**{one.outcome}**", escaped(one.text))
                for name, one in self.judged
            )
            yield self.tally
            yield table_text(columns, rows, mark="---")

    def _changes(self) -> Iterator[str]:
        if self.summary.games:
            yield drawing_text("Mean points against strength", _POINTS)
        changes = (row for section in self.games for row in section.changes.values())
        rows = sorted(changes, key=lambda row: row.strength)
        table = pivot(rows, lambda row: strength_text(row.strength), lambda row: row.figure)
        if rows:
            yield "## Relative change of the mean points, SAP-100 against the original agent"
            yield pivot_text("λ", table, lambda row: change_text(row.change, row.compared, row.paper), "{}, %")
            yield self.beside_the_paper

    def page(self, store: Results) -> str:
        """Return the page's HTML; the store has its pictures."""
        charts, curves = self.charts(PAGE), self.request.curves
        threat = curves[0].first.threat  # of the pictures: one for all
        points = charts.pop(_POINTS) if self.summary.games else None
        return template("study.html").render(
            title=self.title,
            study=self,
            charts={name: chart.to_dict() for name, chart in charts.items()},
            points=to_bytes(points, "svg").decode() if points else "",
            bundle=vega() if charts else "",
            themes={"light": PAPER, "dark": DARK},
            examples=examples(store, [curve for curve in _firsts(curves) if curve.first.threat == threat]),
            threat=threat,
            threats=list(dict.fromkeys(curve.first.threat for curve in curves)),
            machine=machine(self.summary.made),
        )


def write_study(store: Store, title: str = "", figures: Sequence[Figure] | None = None) -> StudyReport:
    """Write a study's report into its folder, finished or not.

    That is ``report.html``; ``results.md``, the same without a browser; the numbers as CSV and Parquet (``accuracy`` of
    images, ``calibration`` where a figure is about it, ``table1`` of games); and ``figures/`` as SVG and PDF. Raises
    ValueError if no cell is stored yet, or if the folder's ``study.json`` cannot be read, which is not asked where
    `figures` are given.
    """
    summary = summarise(store)
    shown = load_figures(store.root) if figures is None else figures
    sections = tuple(section_of(store, figure, summary) for figure in shown)
    judged = tuple((one.figure.name, found) for one in sections for found in _judged(store, one.figure))
    report = StudyReport(store.request, title or store.request.title, summary, sections, judged)
    contents = {"report.html": report.page(store).encode(), "results.md": report.markdown().encode()}
    tables = {
        "accuracy": [row.record() for row in summary.images], "calibration": list(_calibration(sections)),
        "table1": [row.record() for row in summary.games],
    }  # fmt: skip
    for name, records in tables.items():
        if records:
            contents |= {f"{name}.csv": to_csv(records).encode(), f"{name}.parquet": to_parquet(records)}
    for name, chart in report.charts(PAPER).items():
        contents |= {f"figures/{name}.svg": to_bytes(chart, "svg"), f"figures/{name}.pdf": to_bytes(chart, "pdf")}
    inside(store.root, "figures", folder=True).mkdir(exist_ok=True)
    return replace(report, files=write_files(store.root, contents))


def _calibration(sections: Iterable[Section]) -> Iterator[dict[str, Any]]:
    for section in sections:
        if isinstance(section, ImageSection):
            yield from ({**row.record(), "figure": section.figure.name} for row in section.calibration)


def _judged(store: Results, figure: Figure) -> Iterator[Judged]:
    spoken = {label for claim in figure.claims for label in claim.labels}
    own = (curve for curve in store.request.curves if curve.figure == figure.name and curve.label in spoken)
    found = {curve.label: measured(store, curve) for curve in own}
    for claim in figure.claims:
        yield judge(claim, found, threat_of(figure).symbol)


def _firsts(curves: Sequence[Curve]) -> list[Curve]:
    """Return each figure's first two curves, named with their figure."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.figure, []).append(replace(curve, label=f"{curve.figure}: {curve.label}"))
    return [curve for own in found.values() for curve in own[:2]]


def _played(curves: Sequence[Curve], rows: Sequence[GameRow]) -> str:
    """Return in words how much was played for a number, and how; nothing of images."""
    games = [curve for curve in curves if curve.first.kind == "games"]
    if not games:
        return ""
    first, cells = games[0], [cell for curve in games for cell in curve.cells]
    rules = cast(GameCell, first.first)
    samples = max(cell.attack.samples for cell in cells if cell.attack is not None)
    sticky = f"{rules.sticky:g}" if rules.sticky else "off"
    cut = any(row.cut for row in rows)
    return (
        f"Each number: {_how_many(games)}, of one trained agent, in {rules.precision}."
        f" A game is stopped after {rules.max_frames:,} frames, as {'some were' if cut else 'none was'}."
        f" ε = {rules.epsilon:g}, sticky actions {sticky}; points as the game counts them, with 95 % intervals"
        " (Student's). λ is how far the adversary may move each gray value of each pixel, in steps of 0..255; its"
        " attack is FGSM on the whole stack of frames, against the action that it finds best. Gradients of defended"
        f" agents average {samples} passes, their actions {max(cell.passes for cell in cells)}. Changes are against the"
        " original at the same λ and under the same kind of attack."
    )


def _how_many(curves: Sequence[Curve]) -> str:
    """Return in words of how many games and seeds a number is, without an attack and under one, and which of others."""
    told = []
    for attacked in (False, True):
        numbers = {
            (curve.label, f"{curve.figure} at λ = {strength_text(strength_of(eps))}"): _games_and_seeds(curve, eps)
            for curve in curves for eps in curve.eps if (eps > 0) == attacked
        }  # fmt: skip
        if not numbers:
            continue
        usual = min(found for (label, _), found in numbers.items() if label == curves[0].label)
        others = "; ".join(_others(numbers, usual))
        where = "under one" if attacked else "without an attack"
        what = f"{counted(usual[0], 'game')} of {counted(usual[1], 'seed')} {where}"
        told.append(f"{what} ({others})" if others else what)
    return " and ".join(told)


def _games_and_seeds(curve: Curve, eps: float) -> tuple[int, int]:
    cells = list(curve.cells_at(eps))
    return sum(cell.stop - cell.start for cell in cells), len({cell.seed for cell in cells})


def _others(numbers: Mapping[tuple[str, str], tuple[int, int]], usual: tuple[int, int]) -> Iterator[str]:
    """Yield in words the numbers that are not the usual one: of labels of which all are so, then of single places."""
    labels, places = (list(dict.fromkeys(key[k] for key in numbers)) for k in (0, 1))
    for found in dict.fromkeys(numbers.values()):
        own = [key for key, value in numbers.items() if value == found != usual]
        everywhere = [label for label in labels if all((label, place) in own for place in places)]
        if everywhere:
            lines = " and ".join(everywhere)
            if len(everywhere) > 2:
                lines = f"{len(everywhere)} lines, {everywhere[0]} to {everywhere[-1]}"
            yield f"{found[0]} of {found[1]} of {lines}"
        for place in places:
            here = [label for label in labels if label not in everywhere and (label, place) in own]
            if here:
                whose = "" if len(here) == len(labels) else f" of {' and '.join(here)}"
                yield f"{found[0]} of {found[1]}{whose} in {place}"

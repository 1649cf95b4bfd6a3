"""The report of a run: an offline page, the charts as files, and the numbers as CSV and Parquet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import altair as alt

from saplab.attacks import LINF, Attack, ThreatModel
from saplab.evaluation.advice import Advice
from saplab.evaluation.findings import Findings, find, reliability_records
from saplab.evaluation.pictures import examples
from saplab.evaluation.rows import Row, Summary, names_of, summarise
from saplab.report.calibration import reliability_chart
from saplab.report.charts import DARK, PAGE, PAPER, STRENGTH, Theme, accuracy_chart, swatches, to_bytes
from saplab.report.minimax import game_chart
from saplab.report.page import machine, template, vega
from saplab.report.sweeps import against_chart
from saplab.report.tables import pivot, to_csv, to_parquet
from saplab.runs import Curve, ImageCell, Network, Results
from saplab.system.folder import write_files

MONTE_CARLO: Final = "passes averaged for the gradient (Monte Carlo samples)"


@dataclass(frozen=True)
class Report:
    """What was written of a run, and what it says.

    Attributes:
        files: the page first.
        summary: all rows.
        findings: verdict, calibration and games; None while no curve is finished.
        notes: what the rehearsal found, in sentences.
    """

    files: tuple[Path, ...]
    summary: Summary = field(repr=False)
    findings: Findings | None = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)


def write_report(
    store: Results, folder: Path | str, title: str = "", advice: Callable[[Advice], str] = Advice.in_python
) -> Report:
    """Write ``report.html``, the numbers as CSV and Parquet, and every chart as SVG, PNG and PDF into a folder.

    Each file is written whole or not at all.

    Args:
        store: the results; unfinished ones give a page that says so.
        title: instead of the request's.
        advice: words how to run what a check is missing.

    Raises:
        ValueError: no cell is stored yet.
    """
    findings, folder = find(store), Path(folder)
    summary = summarise(store)
    summary = replace(summary, shown=drawn(summary, findings))
    title = title or store.request.title
    records = [row.record() for row in summary.rows]
    contents = {"report.html": render_page(store, summary, findings, title, advice).encode(),
                "accuracy.csv": to_csv(records).encode(),
                "accuracy.parquet": to_parquet(records)}  # fmt: skip
    for name, chart in _charts(summary, findings, PAPER, title).items():
        for kind in ("svg", "png", "pdf"):
            contents[f"{name}.{kind}"] = to_bytes(chart, kind)
    return Report(write_files(folder, contents), summary, findings, store.request.notes)


def chart_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as `accuracy_chart` takes them, at the numbers that people read for radii."""
    return [{**row.record(), "strength": row.strength, "across": row.across} for row in rows]


def drawn(summary: Summary, findings: Findings | None) -> tuple[str, ...]:
    """Return the labels of the curves that a chart draws at first: the telling ones, and the attack that decides."""
    deciding = findings.verdict.headline.attack if findings else ""
    labels = dict.fromkeys(row.curve for row in summary.images if not row.across)
    return tuple(label for label in labels if label in summary.shown or label == deciding)


def threat_of(rows: Sequence[Row]) -> ThreatModel:
    """Return norm and bounds of rows, which share them."""
    return next((row.threat for row in rows), LINF)


def axis_of(rows: Sequence[Row]) -> str:
    """Return what the rows' radii are called on an axis."""
    threat = threat_of(rows)
    return STRENGTH if threat.in_steps else f"radius {threat.symbol}{threat.setting}"


def _charts(summary: Summary, findings: Findings | None, theme: Theme, title: str = "") -> dict[str, alt.TopLevelMixin]:
    """Return the charts that the run has numbers for, by the names of their files."""
    records, axis = chart_records(summary.images), axis_of(summary.images)
    symbol = threat_of(summary.images).symbol
    charts: dict[str, alt.TopLevelMixin] = {"accuracy": accuracy_chart(records, theme, title, summary.shown, axis)}
    if findings is None:
        return charts
    if diagrams := reliability_records(findings.calibration):
        charts["reliability"] = reliability_chart(diagrams, theme, symbol)
    if findings.convergence:
        charts["convergence"] = against_chart(findings.convergence, MONTE_CARLO, theme, symbol)
    if (strength := telling_strength(findings)) is not None:
        charts["game"] = game_chart(findings.games[strength], theme)
    return charts


def render_page(
    store: Results, summary: Summary, findings: Findings | None, title: str, advice: Callable[[Advice], str]
) -> str:
    """Return the page's HTML: everything inside, nothing loaded from anywhere."""
    request = store.request
    rows = [row for row in summary.images if not row.across]
    charts = _charts(summary, findings, PAGE)
    return template("report.html").render(
        title=title, command=request.command, notes=request.notes, summary=summary, findings=findings, advice=advice,
        charts={name: chart.to_dict() for name, chart in charts.items()},
        drawings={name: to_bytes(chart, "svg").decode() for name, chart in _charts(summary, findings, PAPER).items()},
        bundle=vega(), themes={"light": PAPER, "dark": DARK}, machine=machine(summary.made),
        swatches=swatches(chart_records(summary.images), shown=summary.shown),
        tables=[by_curve(rows), by_curve([row for row in summary.images if row.across])],
        strengths=sorted({row.strength for row in rows}),
        game_strength=telling_strength(findings),
        curves=[(curve, _settings(curve)) for curve in request.curves],
        examples=examples(store, [curve for curve in request.curves if curve.label in summary.shown]),
        threat=threat_of(summary.images),
        has_paper=any(row.paper is not None for row in rows),
        is_random=any(row.single != row.averaged for row in rows),
        has_seeds=any(row.seeds is not None for row in rows),
    )  # fmt: skip


def by_curve(rows: Sequence[Row]) -> dict[str, dict[float, Row]]:
    """Lay out rows by curve and radius, as people read it."""
    return pivot(rows, names_of(rows), lambda row: row.strength)


def telling_strength(findings: Findings | None) -> float | None:
    """Choose the radius whose game is drawn: where its value lies closest to half; None without a game."""
    games = findings.games if findings else {}
    return min(games, key=lambda strength: abs(games[strength].value - 0.5), default=None)


def _settings(curve: Curve) -> dict[str, str]:
    cell, stop = curve.first, curve.cells[-1].stop
    attack = {} if cell.attack is None else Attack.registry.encode(cell.attack)
    data = {"data": f"SHA-256 {cell.data[:12]}…"} if isinstance(cell, ImageCell) else {}
    return {
        "defender": _network_text(cell.defender),
        "adversary": "the defender itself" if cell.adversary == cell.defender else _network_text(cell.adversary),
        "attack": str(attack.pop("class", "none")),
        **{name: str(value) for name, value in attack.items()},
        **({} if cell.threat.in_steps else {"radii": f"{cell.threat.symbol}{cell.threat.setting}"}),
        "passes": str(cell.passes), "seed": str(cell.seed), "precision": cell.precision, "device": cell.device,
        cell.ranges: f"{stop - cell.start:,} (positions {cell.start} to {stop - 1})",
        "weights": f"SHA-256 {cell.defender.digest[:12]}…",
        **data,
    }  # fmt: skip


def _network_text(network: Network) -> str:
    places = " and ".join((*network.sites, *network.parameters))
    where = f" at {places}" if places else ""
    return f"{network.model}, {network.spec}{where}" if network.defenses else f"{network.model}, no defence"

"""The report of a run folder: an offline page, the chart as files, and the numbers as CSV, from stored cells alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from saplab.evaluation.findings import Findings, find, reliability_records
from saplab.evaluation.pictures import examples
from saplab.evaluation.rows import Row, Summary, strength_text, summarise, to_csv, to_parquet
from saplab.report.charts import PAGE, PAPER, Theme, accuracy_chart, swatches, to_bytes
from saplab.report.figures import against_chart, game_chart, reliability_chart
from saplab.runs import Store
from saplab.runs.cell import Cell, Curve, Network
from saplab.system.files import write_atomically
from saplab.system.words import counted

# The page's curve colours on a dark ground: the same hues as `charts.PAPER`, lightened to at least 4.5:1.
DARK = Theme("#e6e9ec", "#3a4047", "#16191d", ("#58a6e0", "#ff8f4d", "#2fc294", "#e08fc2", "#d9b832", "#b3bac2"))
MONTE_CARLO = "passes averaged for the gradient (Monte Carlo samples)"


@dataclass(frozen=True)
class Report:
    """What was written of a run, and what it says.

    Args:
        files: the page first.
        summary: the rows.
        findings: the verdict and what goes with it; None while no curve is finished.
    """

    files: tuple[Path, ...]
    summary: Summary
    findings: Findings | None

    def verdict_record(self) -> dict[str, Any]:
        """Give the verdict as JSON's own types; an empty sentence where there is none."""
        if self.findings is None:
            return {"finding": "", "robust": [], "checks": []}
        found = self.findings.verdict
        return {"finding": found.sentence, "robust": list(map(asdict, found.robust)),
                "checks": list(map(asdict, found.checks))}  # fmt: skip


def write_report(root: Path | str, title: str = "") -> Report:
    """Write ``report.html``, the numbers as CSV and Parquet, and every chart as SVG, PNG and PDF into a run folder.

    Each file is written whole or not at all.

    Args:
        root: the run folder; an unfinished one gives a page that says so.
        title: instead of the request's.

    Raises:
        FileNotFoundError: if `root` is no run folder.
        ValueError: if no cell is stored yet.
        OSError: if a file cannot be written; those before it are whole.
    """
    store = Store.read(root)
    summary = summarise(store)
    findings = find(store)
    title = title or store.request.title
    contents = {"report.html": render_page(store, summary, findings, title).encode(),
                "accuracy.csv": to_csv(summary.rows).encode(),
                "accuracy.parquet": to_parquet(summary.rows)}  # fmt: skip
    for name, chart in _charts(summary, findings, PAPER, title).items():
        for kind in ("svg", "png", "pdf"):
            contents[f"{name}.{kind}"] = to_bytes(chart, kind)
    for name, content in contents.items():
        write_atomically(store.root / name, content)
    return Report(tuple(store.root / name for name in contents), summary, findings)


def _charts(summary: Summary, findings: Findings | None, theme: Theme, title: str = "") -> dict[str, alt.TopLevelMixin]:
    """Give the charts that the run has numbers for, by the name of their files."""
    charts: dict[str, alt.TopLevelMixin] = {"accuracy": accuracy_chart(summary.rows, theme, title, summary.shown)}
    if findings is None:
        return charts
    if diagrams := reliability_records(findings.calibration):
        charts["reliability"] = reliability_chart(diagrams, theme)
    if findings.convergence:
        charts["convergence"] = against_chart(findings.convergence, MONTE_CARLO, theme)
    if (strength := telling_strength(findings)) is not None:
        charts["game"] = game_chart(findings.games[strength], theme)
    return charts


def render_page(store: Store, summary: Summary, findings: Findings | None, title: str) -> str:
    """Give the page's HTML: everything inside, nothing loaded from anywhere."""
    request = store.request
    rows = [row for row in summary.rows if not row.across]
    charts = _charts(summary, findings, PAGE)
    return template("report.html").render(
        title=title,
        command=request.command,
        summary=summary,
        findings=findings,
        charts={name: chart.to_dict() for name, chart in charts.items()},
        drawings={name: to_bytes(chart, "svg").decode() for name, chart in _charts(summary, findings, PAPER).items()},
        bundle=vega(),
        themes={"light": PAPER, "dark": DARK},
        swatches=swatches(summary.rows, shown=summary.shown),
        tables=[table(rows), table([row for row in summary.rows if row.across])],
        strengths=sorted({row.strength for row in rows}),
        game_strength=telling_strength(findings),
        curves=[(curve, _settings(curve)) for curve in request.curves],
        examples=examples(store, _drawn(request.curves, summary.shown)),
        machine=machine(summary.made),
        has_paper=any(row.paper is not None for row in rows),
        is_random=any(row.single != row.averaged for row in rows),
        has_seeds=any(row.seeds is not None for row in rows),
    )


def _drawn(curves: Sequence[Curve], shown: Sequence[str]) -> list[Curve]:
    """Give the curves that the chart draws at first."""
    return [curve for curve in curves if curve.label in shown]


def telling_strength(findings: Findings | None) -> float | None:
    """Choose the strength whose game is drawn: where its value lies closest to half; None without a game."""
    games = findings.games if findings else {}
    return min(games, key=lambda strength: abs(games[strength].value - 0.5), default=None)


@cache
def template(name: str) -> Template:
    """Give a page's template."""
    loader = PackageLoader("saplab.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["strength"] = strength_text
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.globals["mixture"] = _mixture_text
    return environment.get_template(name)


def _mixture_text(names: Sequence[str], weights: Sequence[float]) -> str:
    """Write a mixture with what is played at least once in a hundred, the most first."""
    played = sorted(zip(weights, names, strict=True), reverse=True)
    return ", ".join(f"{name} ({100 * weight:.0f} %)" for weight, name in played if weight >= 0.01)


@cache
def vega() -> str:
    """Give Vega, Vega-Lite and Vega-Embed as one script that sets ``vegaEmbed``."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.javascript_bundle(vl_version=version))  # type: ignore[call-arg] # its stub is wrong


def table(rows: Sequence[Row]) -> dict[str, dict[float, Row]]:
    """Lay out rows by curve and strength."""
    found: dict[str, dict[float, Row]] = {}
    for row in rows:
        found.setdefault(row.curve, {})[row.strength] = row
    return found


def _settings(curve: Curve) -> dict[str, str]:
    """Say what was run for a curve, for people: everything but the shards' ranges is the same in its cells."""
    cell = curve.cells[0]
    return {
        "defender": _network_text(cell.defender),
        "adversary": _adversary_text(cell),
        "attack": str(cell.attack.get("name", "none")),
        **{name: str(value) for name, value in cell.attack.items() if name != "name"},
        "passes": str(cell.passes),
        "seed": str(cell.seed),
        "precision": cell.precision,
        "images": f"{curve.cells[-1].stop - cell.start:,} (positions {cell.start} to {curve.cells[-1].stop - 1})",
        "weights": f"SHA-256 {cell.defender.digest[:12]}…",
        "data": f"SHA-256 {cell.data[:12]}…",
    }


def _network_text(network: Network) -> str:
    sites = f" at sites {network.sites}" if network.sites else ""
    return f"{network.model}, {network.defense}{sites}" if network.defense else f"{network.model}, no defence"


def _adversary_text(cell: Cell) -> str:
    return "the defender itself" if cell.adversary == cell.defender else _network_text(cell.adversary)


def machine(made: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Gather how the cells were made: every value that occurs, the sum of the seconds, the span of the times."""
    seconds = sum(entry.get("seconds", 0) for entry in made)
    times = sorted(str(entry["time"]) for entry in made if "time" in entry)
    names = dict.fromkeys(name for entry in made for name in entry if name not in ("seconds", "time"))
    facts = {name: _values([entry[name] for entry in made if name in entry]) for name in names}
    span = " to ".join(dict.fromkeys((times[0], times[-1]))) if times else "unknown"
    return {**facts, "computing time": f"{seconds:,.0f} s in {counted(len(made), 'cell')}", "finished": span}


def _values(values: Sequence[Any]) -> str:
    return "; ".join(dict.fromkeys(map(_value_text, values)))


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value)

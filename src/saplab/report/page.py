"""The report of a run folder: an offline page, the chart as files, and the numbers as CSV, from stored cells alone."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from saplab.files import write_atomically
from saplab.report.charts import PAGE, PAPER, Theme, accuracy_chart, swatches, to_bytes
from saplab.report.rows import Row, Summary, strength_text, summarise, to_csv
from saplab.runs import Store
from saplab.studies import Cell, Curve, Network

# The page's curve colours on a dark ground: the same hues as `charts.PAPER`, lightened to at least 4.5:1.
_DARK = Theme("#e6e9ec", "#3a4047", "#16191d", ("#58a6e0", "#ff8f4d", "#2fc294", "#e08fc2", "#d9b832", "#b3bac2"))


def write_report(root: Path | str, title: str = "", finding: str = "") -> list[Path]:
    """Write ``report.html``, ``accuracy.svg``, ``.png``, ``.pdf`` and ``.csv`` into a run folder, each whole or not.

    Args:
        root: the run folder; an unfinished one gives a page that says so.
        title: instead of the request's.
        finding: what the numbers show, in one sentence; kept in the folder. Empty for the one kept there before.

    Returns:
        The files, the page first.

    Raises:
        FileNotFoundError: if `root` is no run folder.
        ValueError: if no cell is stored yet.
        OSError: if a file cannot be written; those before it are whole.
    """
    store = Store.read(root)
    summary = summarise(store)
    if finding and finding != store.request.finding:
        store = store.with_finding(finding)
    title = title or store.request.title
    chart = accuracy_chart(summary.rows, PAPER, title)
    contents = {
        "report.html": render_page(store, summary, title).encode(),
        "accuracy.svg": to_bytes(chart, "svg"),
        "accuracy.png": to_bytes(chart, "png"),
        "accuracy.pdf": to_bytes(chart, "pdf"),
        "accuracy.csv": to_csv(summary.rows).encode(),
    }
    for name, content in contents.items():
        write_atomically(store.root / name, content)
    return [store.root / name for name in contents]


def render_page(store: Store, summary: Summary, title: str) -> str:
    """Give the page's HTML: everything inside, nothing loaded from anywhere."""
    request = store.request
    return _template().render(
        title=title,
        finding=request.finding,
        command=request.command,
        summary=summary,
        spec=accuracy_chart(summary.rows, PAGE).to_dict(),
        static_chart=to_bytes(accuracy_chart(summary.rows), "svg").decode(),
        bundle=_vega(),
        themes={"light": PAPER, "dark": _DARK},
        swatches=swatches(summary.rows),
        table=_table(summary.rows),
        strengths=sorted({row.strength for row in summary.rows}),
        curves=[(curve, _settings(curve)) for curve in request.curves],
        machine=_machine(summary.made),
        has_paper=any(row.paper is not None for row in summary.rows),
        is_random=any(row.single != row.averaged for row in summary.rows),
    )


@cache
def _template() -> Template:
    loader = PackageLoader("saplab.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["strength"] = strength_text
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    return environment.get_template("report.html")


@cache
def _vega() -> str:
    """Give Vega, Vega-Lite and Vega-Embed as one script that sets ``vegaEmbed``."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.javascript_bundle(vl_version=version))  # type: ignore[call-arg] # its stub is wrong


def _table(rows: Sequence[Row]) -> dict[str, dict[float, Row]]:
    table: dict[str, dict[float, Row]] = {}
    for row in rows:
        table.setdefault(row.curve, {})[row.strength] = row
    return table


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


def _machine(made: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Gather how the cells were made: every value that occurs, the sum of the seconds, the span of the times."""
    seconds = sum(entry.get("seconds", 0) for entry in made)
    times = sorted(str(entry["time"]) for entry in made if "time" in entry)
    names = dict.fromkeys(name for entry in made for name in entry if name not in ("seconds", "time"))
    facts = {name: _values([entry[name] for entry in made if name in entry]) for name in names}
    span = " to ".join(dict.fromkeys((times[0], times[-1]))) if times else "unknown"
    return {**facts, "computing time": f"{seconds:,.0f} s in {len(made)} cells", "finished": span}


def _values(values: Sequence[Any]) -> str:
    return "; ".join(dict.fromkeys(map(_value_text, values)))


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value)

"""The files of a run: results as JSON, an offline page with charts, and tables in Markdown."""

from itertools import groupby
from pathlib import Path
from typing import Final

import altair as alt
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from saplab.report.charts import PAPER
from saplab.system.files import write_atomically
from suite.charts import charts
from suite.results import Results
from suite.tables import BEGIN, END, conditions, options_text, put_between, tables, to_markdown

TITLES: Final = {
    "sampler": "Sampler",
    "pass": "Passes under each defence",
    "calls": "Calls on tiny maps",
    "gradients": "Monte Carlo gradients",
    "scaling": "Scaling",
    "memory": "Peak memory of a gradient pass",
    "roofline": "Distance to the machine's limits",
}


def write_files(results: Results, out: Path) -> tuple[Path, ...]:
    """Write ``results.json``, ``report.html`` and ``tables.md`` to a folder."""
    stored = write_results(results, out)
    files = {"report.html": render(results), "tables.md": to_markdown(results)}
    for name, text in files.items():
        write_atomically(out / name, text.encode())
    return (stored, *(out / name for name in files))


def write_results(results: Results, out: Path) -> Path:
    """Write ``results.json`` alone to a folder, which is made if necessary."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "results.json", results.to_json())
    return out / "results.json"


def rewrite_page(path: Path, results: Results) -> None:
    """Put the tables between the marks of a Markdown page.

    Raises:
        ValueError: if the page lacks a mark.
        OSError: if it cannot be read or written.
    """
    page = path.read_text(encoding="utf-8")
    write_atomically(path, put_between(page, BEGIN, END, to_markdown(results)).encode())


def render(results: Results, title: str = "Speed and memory, measured") -> str:
    """Return the page's HTML, which loads nothing from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        title=title,
        conditions=conditions(results),
        sections={name: list(found) for name, found in groupby(tables(results), lambda table: table.section)},
        titles=TITLES,
        charts={name: chart.to_dict() for name, chart in charts(results).items()},
        left_out=results.left_out,
        options=options_text(results.options),
        script=_vega(),
        theme=PAPER,
    )


def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that sets ``vegaEmbed``."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.javascript_bundle(vl_version=version))  # type: ignore[call-arg] # its stub is wrong

"""The files of a run: results as JSON, an offline page with charts, and tables in Markdown."""

import json
from pathlib import Path
from typing import Final

from saplab.evaluation.report import DARK, template, vega
from saplab.report.charts import PAGE, PAPER, to_bytes
from saplab.system.files import write_atomically
from suite.charts import charts
from suite.results import Results
from suite.tables import Table, conditions, options_text, rewritten, tables, to_markdown

TITLES: Final = {
    "sampler": "Sampler",
    "pass": "Passes under each defence",
    "gradients": "Monte Carlo gradients",
    "scaling": "Scaling",
    "memory": "Peak memory of a gradient pass",
    "roofline": "Distance to the machine's limits",
}


def write_files(results: Results, out: Path) -> tuple[Path, ...]:
    """Write ``results.json``, ``report.html`` and ``tables.md`` into a folder, each whole or not.

    Raises:
        OSError: if a file cannot be written; those before it are whole.
    """
    stored = write_results(results, out)
    files = {"report.html": render(results), "tables.md": to_markdown(results)}
    for name, text in files.items():
        write_atomically(out / name, text.encode())
    return (stored, *(out / name for name in files))


def write_results(results: Results, out: Path) -> Path:
    """Write ``results.json`` alone into a folder, which is made where there is none."""
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(results.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(out / "results.json", content.encode())
    return out / "results.json"


def rewrite_page(path: Path, results: Results) -> None:
    """Put the tables between the marks of a Markdown page, which is made where there is none.

    Raises:
        ValueError: if the page holds one mark alone.
    """
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    write_atomically(path, rewritten(page, results).encode())


def render(results: Results, title: str = "Speed and memory, measured") -> str:
    """Give the page's HTML: everything inside, nothing loaded from anywhere."""
    by_section: dict[str, list[Table]] = {}
    for table in tables(results):
        by_section.setdefault(table.name, []).append(table)
    return template("bench.html").render(
        title=title,
        conditions=conditions(results),
        sections=[(name, TITLES[name], found) for name, found in by_section.items()],
        charts={name: chart.to_dict() for name, chart in charts(results, PAGE).items()},
        drawings={name: to_bytes(chart, "svg").decode() for name, chart in charts(results).items()},
        left_out=results.left_out,
        options=options_text(results.options),
        bundle=vega(),
        themes={"light": PAPER, "dark": DARK},
    )

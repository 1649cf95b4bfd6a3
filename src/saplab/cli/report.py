"""``saplab report``: make a run's page, figures and table again, from its stored cells."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("report")(report)


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, finished or not.")],
    title: Annotated[str, typer.Option(help="Heading; by default the run's own.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Give the rows and paths as JSON on stdout.")] = False,
) -> None:
    """Make a run's page and figures again.

    Writes report.html, accuracy.svg, .png, .pdf and .csv into the run's folder, and shows the table.
    """
    from saplab.cli.console import Console
    from saplab.report import summarise, to_records, write_report
    from saplab.runs import Store

    console = Console(json=as_json)
    store = Store.read(run_dir)
    summary = summarise(store)
    for problem in summary.problems:
        console.say(f"warning: {problem}")
    if summary.finished < summary.total:
        console.say(f"unfinished: {summary.finished} of {summary.total} cells are stored")
    console.show_rows(summary.rows)
    if store.request.finding:
        console.say(f"\n{store.request.finding}")
    paths = [str(path) for path in write_report(run_dir, title)]
    console.say("\n" + "\n".join(paths))
    if as_json:
        console.emit_json({"rows": to_records(summary.rows), "finding": store.request.finding, "files": paths})

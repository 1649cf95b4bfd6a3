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

    Writes report.html, accuracy.csv, accuracy.parquet and the charts (.svg, .png, .pdf) into the run's folder, and
    shows the table.
    """
    from saplab.cli.console import Console
    from saplab.cli.verbs.table1 import show_table
    from saplab.evaluation.report import write_report
    from saplab.evaluation.rows import to_records
    from saplab.paper.report import is_study, write_study
    from saplab.paper.table1_report import is_table

    console = Console(json=as_json)
    if is_table(run_dir):
        show_table(run_dir, console, title)
        return
    if is_study(run_dir):
        study = write_study(run_dir, title)
        console.show_claims(study)
        console.say("\n".join(map(str, study.files)))
        if as_json:
            console.emit_json({"rows": to_records(study.summary.rows), "files": list(map(str, study.files))})
        return
    written = write_report(run_dir, title)
    summary = written.summary
    for problem in summary.problems:
        console.say(f"warning: {problem}")
    if summary.finished < summary.total:
        console.say(f"unfinished: {summary.finished} of {summary.total} cells are stored")
    console.show_rows(summary.rows)
    if written.findings:
        console.show_verdict(written.findings.verdict)
    files = [str(path) for path in written.files]
    console.say("\n" + "\n".join(files))
    if as_json:
        console.emit_json({**written.verdict_record(), "rows": to_records(summary.rows), "files": files})

"""``saplab report``: make a run's page, figures and table again, from its stored cells."""

from pathlib import Path
from typing import Annotated

import typer

from saplab.cli import options
from saplab.cli.console import Console
from saplab.cli.options import option


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, finished or not.")],
    title: Annotated[str, option(options.OUTPUT, "Heading; by default the run's own.")] = "",
    as_json: options.Json = False,
) -> None:
    """Make a run's page and figures again.

    Writes report.html, the numbers as CSV and Parquet, and the charts into the run's folder, and shows the table. Ends
    with exit code 1 where a stored cell is damaged.
    """
    from saplab.cli.advice import in_options
    from saplab.cli.results import record_of, show_report, show_study, tell_what_is_missing
    from saplab.evaluation.games import write_games
    from saplab.evaluation.report import write_report
    from saplab.evaluation.text import rows_text
    from saplab.paper.report import write_study
    from saplab.paper.study import is_study
    from saplab.runs import Store
    from saplab.system.words import readable

    console, store, title = Console(as_json), Store.read(run_dir), readable(title)
    for note in store.request.notes:
        console.say(note)
    if is_study(run_dir):
        study = write_study(store, title)
        tell_what_is_missing(study.summary, console)
        show_study(study, console)
        summary = study.summary
    elif store.request.shareable:
        played = write_games(store, title)
        summary = played.summary
        tell_what_is_missing(summary, console)
        console.say(rows_text(summary.rows))
        console.say("\n" + "\n".join(map(str, played.files)))
        if as_json:
            rows, files = [row.record() for row in summary.rows], list(map(str, played.files))
            console.emit_json({"rows": rows, "files": files})
    else:
        written = write_report(store, run_dir, title, in_options)
        summary = written.summary
        tell_what_is_missing(summary, console)
        show_report(written, console)
        console.say("\n" + "\n".join(map(str, written.files)))
        if as_json:
            console.emit_json(record_of(written))
    if summary.damaged:
        raise typer.Exit(1)

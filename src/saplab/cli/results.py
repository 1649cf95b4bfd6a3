"""Show what was found: tables, verdicts and claims as text, and as JSON for programs."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from saplab.cli.advice import in_options
from saplab.cli.computing import fill, open_store

if TYPE_CHECKING:
    from saplab.cli.console import Console
    from saplab.evaluation.evaluate import Job
    from saplab.evaluation.report import Report
    from saplab.evaluation.rows import Summary
    from saplab.evaluation.verdict import Verdict
    from saplab.paper.report import StudyReport


def compute_and_report(job: "Job", folder: Path, console: "Console", fail_below: float | None = None) -> None:
    """Compute what is missing of a job, then show its table and verdict and write its report.

    Exits with code 1 if cells failed, one cannot be read, or the verdict falls short of an accuracy of `fail_below` %.
    """
    from saplab.evaluation.report import write_report

    store = open_store(job, folder, console)
    complete = fill(job, store, console)
    report = write_report(store, store.root, advice=in_options)
    if console.json:
        console.emit_json({"out": str(store.root), **record_of(report)})
    tell_what_is_missing(report.summary, console)
    show_report(report, console)
    console.say(f"\nReport: {report.files[0]}")
    verdict = report.findings.verdict if report.findings else None
    if not complete or report.summary.damaged or (fail_below is not None and verdict and verdict.fails(fail_below)):
        raise typer.Exit(1)


def show_report(report: "Report", console: "Console") -> None:
    """Show the table and the verdict of a run."""
    from saplab.evaluation.text import finding_text, rows_text, verdict_text

    if report.findings:
        console.say(f"{finding_text(report.findings.verdict)}\n")
    console.say(rows_text(report.summary.rows))
    if report.findings:
        console.say(f"\n{verdict_text(report.findings.verdict, in_options)}")


def record_of(report: "Report") -> dict[str, Any]:
    """Return a report as plain values; an empty sentence where nothing could be judged."""
    found = (
        _verdict_record(report.findings.verdict)
        if report.findings
        else {"finding": "", "meaning": "", "robust": [], "persistent": [], "checks": []}
    )
    rows, summary = [row.record() for row in report.summary.rows], report.summary
    cells = {"finished": summary.finished, "total": summary.total}
    return {**found, **cells, "notes": list(report.notes), "rows": rows, "files": list(map(str, report.files))}


def _verdict_record(verdict: "Verdict") -> dict[str, Any]:
    checks = [{**vars(check), "how": in_options(check.how) if check.how else ""} for check in verdict.checks]
    robust = [
        {"strength": bound.strength if bound.threat.in_steps else None, **asdict(bound)} for bound in verdict.robust
    ]
    persistent = [
        {"strength": left.strength if left.threat.in_steps else None, **asdict(left)} for left in verdict.persistent
    ]
    return {
        "finding": verdict.sentence, "meaning": verdict.meaning, "robust": robust, "persistent": persistent,
        "checks": checks,
    }  # fmt: skip


def show_study(study: "StudyReport", console: "Console") -> None:
    """Show the games and the claims of a study, and where its page is."""
    from saplab.evaluation.text import games_text

    if study.summary.games:
        console.say(games_text(study.summary.games) + "\n")
    if study.judged:
        console.say(_claims_text(study))
    console.say(f"\nReport: {study.files[0]}")
    if console.json:
        rows, files = [row.record() for row in study.summary.rows], list(map(str, study.files))
        told = {"claims": study.claims, "notes": list(study.request.notes), "rows": rows, "files": files}
        console.emit_json({"out": str(study.files[0].parent), **told})


def _claims_text(study: "StudyReport") -> str:
    from saplab.evaluation.text import width

    lines = [study.tally]
    for figure, found in study.judged:
        indent = " " * 14
        for text in (f"{found.outcome:13} {figure}: {found.claim.text}", f"{indent}{found.text}"):
            lines.append(textwrap.fill(text, width(), subsequent_indent=indent))
    return "\n".join(lines)


def tell_what_is_missing(summary: "Summary", console: "Console") -> None:
    """Show which files are damaged, and how much is not computed yet."""
    for problem in summary.problems:
        console.say(f"warning: {problem}")
    if summary.finished < summary.total:
        console.say(f"unfinished: {summary.finished} of {summary.total} cells are stored")

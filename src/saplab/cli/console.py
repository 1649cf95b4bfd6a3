"""What a person sees: text, progress and tables. With ``--json`` the result alone is on stdout."""

import json as codec
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import typer

if TYPE_CHECKING:
    from rich.console import Console as Terminal
    from rich.progress import Progress
    from rich.table import Table
    from suite.tables import Table as Layout

    from saplab.evaluation.rows import Row
    from saplab.evaluation.verdict import Verdict
    from saplab.paper.report import StudyReport
    from saplab.paper.table1_report import TableReport

_LINE_SECONDS = 5.0
_PIPE_WIDTH = 120  # columns


class Advance(Protocol):
    """Tell a progress that `n` more parts are done, with numbers to show beside it."""

    def __call__(self, n: int = 1, **fields: object) -> None:
        """Advance by `n`; a field's text replaces the one shown before."""


@dataclass(frozen=True)
class Console:
    """The person's side of a verb.

    Args:
        json: whether stdout is for the JSON result; all else is on stderr then.

    Example:
        >>> console = Console(json=True)
        >>> with console.progress("images", total=100) as advance:
        ...     advance(50, loss=0.5)
        >>> console.emit_json({"accuracy": 0.9})
        {"accuracy": 0.9}
    """

    json: bool = False

    def say(self, text: str = "") -> None:
        """Write text and the end of a line."""
        typer.echo(text, err=self.json)

    def emit_json(self, result: object) -> None:
        """Write the result as one line of JSON to stdout.

        Raises:
            ValueError: for NaN or infinity, which JSON does not have.
        """
        typer.echo(codec.dumps(result, ensure_ascii=False, allow_nan=False))

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        """Show on stderr how far a work of `total` parts is: a bar on a terminal, elsewhere a line now and then."""
        with _bar(description, total) if sys.stderr.isatty() else _lines(description, total) as advance:
            yield advance

    def _terminal(self) -> "Terminal":
        """Give Rich's console for text; a file or a pipe gets lines long enough for a table."""
        from rich.console import Console as Terminal

        stream = sys.stderr if self.json else sys.stdout
        return Terminal(file=stream, highlight=False, width=None if stream.isatty() else _PIPE_WIDTH)

    def show(self, what: "Table | str", style: str = "") -> None:
        """Print a table, or text as it is."""
        self._terminal().print(what, style=style or None, markup=False)

    def show_rows(self, rows: "Sequence[Row]") -> None:
        """Print the table of accuracies and what its words mean."""
        terminal = self._terminal()
        terminal.print(accuracy_table(rows))
        terminal.print(accuracy_note(rows), style="dim")

    def show_table(self, table: "Layout") -> None:
        """Print a table of text, names left and numbers right, and its note."""
        from rich.table import Table
        from rich.text import Text

        shown = Table(title=Text(table.title), title_justify="left")
        for k, column in enumerate(table.columns):
            shown.add_column(Text(column), justify="right" if k else "left")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        terminal = self._terminal()
        terminal.print(shown)
        if table.note:
            terminal.print(Text(table.note, "dim"))
        terminal.print()

    def show_verdict(self, verdict: "Verdict") -> None:
        """Print the verdict: what is left under the worst of all attacks, the checks, and the sentence."""
        from saplab.evaluation.rows import strength_text

        terminal = self._terminal()
        for left in verdict.robust:
            share = f"{left.accuracy.percent()} (strongest: {left.attack})"
            terminal.print(f"λ = {strength_text(left.strength)}: under the worst of all attacks {share}", markup=False)
        terminal.print()
        terminal.print(verdict_table(verdict))
        terminal.print(f"\n{verdict.sentence}", style="bold", markup=False)

    def show_claims(self, report: "StudyReport | TableReport", of: str = "figure") -> None:
        """Print each claim of a study with its outcome and the numbers behind it."""
        from rich.table import Table
        from rich.text import Text

        colours = {"holds": "green", "does not hold": "red", "unclear": "yellow", "not computed": "dim"}
        table = Table(title=report.tally, title_justify="left", show_lines=True)
        for column in (of, "claim", "found", "evidence"):
            table.add_column(column, no_wrap=column == of)
        for figure, found in report.judged:
            outcome = Text(found.outcome, colours[found.outcome])
            table.add_row(figure, Text(found.claim.text), outcome, Text(found.evidence))
        if report.judged:
            self._terminal().print(table)


def accuracy_table(rows: "Sequence[Row]") -> "Table":
    """Lay out rows of a report, curves against strengths, the fewer of them as columns; without those across."""
    from rich.table import Table
    from rich.text import Text

    from saplab.evaluation.rows import strength_text

    cells = {(row.curve, row.strength): row for row in rows if not row.across}
    curves = list(dict.fromkeys(curve for curve, _ in cells))
    strengths = sorted({strength for _, strength in cells})
    table = Table(title="Accuracy under attack, in %", title_justify="left")
    if len(curves) <= len(strengths):
        table.add_column("λ", justify="right", no_wrap=True)
        for curve in curves:
            table.add_column(Text(curve), justify="right")
        for strength in strengths:
            table.add_row(strength_text(strength), *(Text(_cell_text(cells.get((c, strength)))) for c in curves))
        return table
    table.add_column("", min_width=20)
    for strength in strengths:
        table.add_column(f"λ = {strength_text(strength)}", justify="right", no_wrap=True)
    for curve in curves:
        table.add_row(Text(curve), *(Text(_cell_text(cells.get((curve, strength)))) for strength in strengths))
    return table


def _cell_text(row: "Row | None") -> str:
    if row is None:
        return "–"
    a = row.averaged
    margin = max(a.high - a.estimate, a.estimate - a.low)
    lines = [f"{100 * a.estimate:.1f} ±{100 * margin:.1f}"]
    if abs(row.single.estimate - a.estimate) >= 0.0005:
        lines.append(f"one pass {100 * row.single.estimate:.1f}")
    if row.paper is not None:
        lines.append(f"paper {row.paper:.1f}")
    return "\n".join(lines)


def verdict_table(verdict: "Verdict") -> "Table":
    """Lay out a verdict's checks: question, outcome, and the evidence or what to run."""
    from rich.table import Table
    from rich.text import Text

    colours = {"passed": "green", "failed": "red", "unclear": "yellow", "not run": "dim"}
    table = Table(title="Can these numbers be believed?", title_justify="left", show_lines=True)
    for column in ("check", "outcome", "evidence"):
        table.add_column(column, no_wrap=column == "outcome")
    for check in verdict.checks:
        how = f"\nto run it: {check.how}" if check.how else ""
        table.add_row(Text(check.question), Text(check.outcome, colours[check.outcome]), Text(f"{check.evidence}{how}"))
    return table


def accuracy_note(rows: "Sequence[Row]") -> str:
    """Say what the words of the table mean, one line each."""
    images = sorted({row.averaged.n for row in rows})
    counts = " to ".join(f"{n:,}" for n in dict.fromkeys((images[0], images[-1])))
    lines = [
        f"{counts} images; ± is the 95 % interval.",
        "λ: how far the attacker may move each pixel, in steps of 0..255; 0 is the clean image.",
    ]
    if any(row.single.estimate != row.averaged.estimate for row in rows):
        lines.append("The prediction is averaged over many random passes; one pass: without averaging.")
    if any(row.paper is not None for row in rows):
        lines.append("paper: the number that the SAP paper reports for its own network.")
    return "\n".join(lines)


@contextmanager
def _bar(description: str, total: int) -> Iterator[Advance]:
    with _new_bar() as bar:
        task = bar.add_task(description, total=total, state="")
        fields: dict[str, object] = {}

        def advance(n: int = 1, **news: object) -> None:
            fields.update(news)
            bar.update(task, advance=n, state=_state(fields))

        yield advance


def _new_bar() -> "Progress":
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    state = TextColumn("{task.fields[state]}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), state)
    return Progress(*columns, console=Terminal(stderr=True))


@contextmanager
def _lines(description: str, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    begin = shown = clock()
    done = 0
    fields: dict[str, object] = {}
    _line(f"{description}: 0/{total}")

    def advance(n: int = 1, **news: object) -> None:
        nonlocal done, shown
        done += n
        fields.update(news)
        now = clock()
        if done >= total or now - shown >= _LINE_SECONDS:
            shown = now
            _line(f"{description}: {done}/{total}, {_times(now - begin, done, total)}  {_state(fields)}")

    yield advance


def _line(text: str) -> None:
    typer.echo(text.rstrip(), err=True)


def _times(seconds: float, done: int, total: int) -> str:
    if done >= total:
        return f"took {seconds:.0f} s"
    return f"{seconds:.0f} s, about {seconds * (total - done) / max(done, 1):.0f} s left"


def _state(fields: Mapping[str, Any]) -> str:
    texts = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items())
    return "  ".join(texts)

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
    from rich.progress import Progress
    from rich.table import Table

    from saplab.report.rows import Row

_LINE_SECONDS = 5.0


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

    def show_rows(self, rows: "Sequence[Row]") -> None:
        """Print the table of accuracies and what its words mean."""
        from rich.console import Console as Terminal

        terminal = Terminal(file=sys.stderr if self.json else sys.stdout, highlight=False)
        terminal.print(accuracy_table(rows))
        terminal.print(accuracy_note(rows), style="dim")


def accuracy_table(rows: "Sequence[Row]") -> "Table":
    """Lay out rows of a report: a line for each strength, a column for each curve."""
    from rich.table import Table
    from rich.text import Text

    from saplab.report.rows import strength_text

    labels = list(dict.fromkeys(row.curve for row in rows))
    cells = {(row.strength, row.curve): row for row in rows}
    table = Table(title="Accuracy under attack, in %", title_justify="left")
    table.add_column("λ", justify="right", no_wrap=True)
    for label in labels:
        table.add_column(Text(label), justify="right")
    for strength in sorted({row.strength for row in rows}):
        found = (cells.get((strength, label)) for label in labels)
        table.add_row(strength_text(strength), *(Text(_cell_text(row)) for row in found))
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

"""An evaluation in plain text: the table and the verdict, for a terminal, a pipe or a notebook."""

import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import zip_longest
from typing import Final, TypeVar

from saplab.attacks import ThreatModel
from saplab.evaluation.advice import ADAPTIVE, ANSWERED, Advice
from saplab.evaluation.checks import Check
from saplab.evaluation.rows import AnyRow, GameRow, Row, names_of
from saplab.evaluation.verdict import SEEN, Verdict
from saplab.report.tables import columns_of, pivot, strength_text, texts

R = TypeVar("R", bound=AnyRow)

_MARKS: Final = {"passed": "✓", "failed": "✗", "unclear": "?"}
_CHOSEN: Final = (
    "For these bounds, one half of the passes chooses each image's worst attack and radius, and the other half judges"
    " it; so a bound may lie above what one attack leaves where all passes judge."
)

_columns: ContextVar[int | None] = ContextVar("_columns", default=None)


def width() -> int:
    """Return the columns that text may take: those of the terminal, 120 where there is none."""
    return _columns.get() or shutil.get_terminal_size((120, 24)).columns


@contextmanager
def within(columns: int) -> Iterator[None]:
    """Lay out text for so many columns until the context is left."""
    token = _columns.set(columns)
    try:
        yield
    finally:
        _columns.reset(token)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table, names on the left and numbers on the right; a cell may have several lines.

    Where the table would be wider than the terminal, each name stands on a line of its own above its numbers.
    """
    lines = [line for row in (head, *rows) for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue="")]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sum(widths) + 2 * len(widths) <= width():
        return "\n".join(_aligned(line, widths) for line in lines)
    widths[0] = 2
    found = []
    for line in lines:
        found += [line[0]] if line[0] else []
        found += [_aligned(("", *line[1:]), widths)] if any(line[1:]) else []
    return "\n".join(found)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()


def table_text(rows: Sequence[Row]) -> str:
    """Lay out accuracies in %, a line for each curve, a column for each radius, and explain the words."""
    drawn = [row for row in rows if not row.across]
    return f"{_by_strength('accuracy, %', drawn, cell_text, drawn[0].threat.symbol)}\n\n{_note(drawn)}"


def _by_strength(title: str, rows: Sequence[R], text: Callable[[R], str], symbol: str = "λ") -> str:
    table = pivot(rows, names_of(rows), lambda row: row.strength)
    head = [title, *(f"{symbol} = {strength_text(strength)}" for strength in columns_of(table))]
    return grid(head, [[curve, *cells] for curve, cells in zip(table, texts(table, text), strict=True)])


def cell_text(row: Row) -> str:
    """Write an accuracy in % with the larger side of its interval, ``85.2 ±1.9``, and what stands beside it."""
    a = row.averaged
    lines = [f"{100 * a.estimate:.1f} ±{100 * max(a.high - a.estimate, a.estimate - a.low):.1f}"]
    if abs(row.single.estimate - a.estimate) >= SEEN:
        lines.append(f"one pass {100 * row.single.estimate:.1f}")
        lines += [f"{tries} tries {100 * left.estimate:.1f}" for tries, left in row.counts.after.items()]
    if row.seeds is not None:
        over = row.seeds.combined
        lines.append(f"{row.seeds.seeds} seeds {over.percent().replace(' %', '')}")
    if row.paper is not None:
        lines.append(f"paper {row.paper:.1f}")
    return "\n".join(lines)


def _note(rows: Sequence[Row]) -> str:
    images = sorted({row.averaged.n for row in rows})
    counts = " to ".join(f"{n:,}" for n in dict.fromkeys((images[0], images[-1])))
    lines = [
        f"{counts} images; ± is the longer arm of the 95 % interval.",
        radius_text(rows[0].threat),
    ]
    if any(abs(row.single.estimate - row.averaged.estimate) >= SEEN for row in rows):
        lines.append("The prediction is averaged over many random passes; one pass: without averaging.")
        if any(row.counts.after for row in rows):
            lines.append("10 tries: right in each of ten passes: what survives an attacker with ten tries.")
    if any(row.seeds is not None for row in rows):
        lines.append("seeds: the mean over the defence's seeds, with its 95 % interval for other seeds and images.")
    if any(row.paper is not None for row in rows):
        lines.append("paper: the number that the SAP paper reports for its own network on CIFAR-10.")
    return "\n".join(lines)


def radius_text(threat: ThreatModel) -> str:
    """Explain what a radius is."""
    if threat.in_steps:
        return "λ: how far the attacker may move each pixel, in steps of 0..255; 0 is the clean image."
    return f"ε: how far the attacker may move each example{threat.setting}; 0 is the clean one."


def games_text(rows: Sequence[GameRow]) -> str:
    """Lay out mean points, a table for each game, and explain the words."""
    by_game = {game: [row for row in rows if row.game == game] for game in dict.fromkeys(row.game for row in rows)}
    tables = [_by_strength(f"points in {game}", own, _points_text) for game, own in by_game.items()]
    games = " or ".join(str(n) for n in sorted({row.score.games for row in rows}))
    interval = "; ± is the 95 % interval" if any(row.score.high is not None for row in rows) else ""
    note = [f"{games} games each{interval}.", "λ: how far the attacker may move each pixel, in steps of 0..255."]
    if any(row.compared for row in rows):
        note.append(
            "In brackets: change against the original at the same λ; – where that one's mean cannot be told from 0, or"
            " where games are too few or too alike to tell."
        )
    return "\n\n".join([*tables, "\n".join(note)])


def _points_text(row: GameRow) -> str:
    lines, change = [str(row.score)], row.change
    if row.compared:
        lines.append("(–)" if change is None else f"({change.percent:+.1f} % [{change.low:+.1f}, {change.high:+.1f}])")
    if row.paper is not None:
        lines.append(f"paper {row.paper:+.1f} %")
    return "\n".join(lines)


def rows_text(rows: Sequence[AnyRow]) -> str:
    """Lay out rows of any kind."""
    images = [row for row in rows if isinstance(row, Row)]
    games = [row for row in rows if isinstance(row, GameRow)]
    threats = dict.fromkeys(row.threat for row in images)
    tables = [table_text([row for row in images if row.threat == threat]) for threat in threats]
    return "\n\n".join([*tables, *([games_text(games)] if games else [])])


def notes_text(notes: Sequence[str]) -> str:
    """Write what the rehearsal found, a paragraph for each note."""
    return "\n".join(textwrap.fill(note, width()) for note in notes)


def finding_text(verdict: Verdict) -> str:
    """Write what was found and what it means."""
    return textwrap.fill(f"{verdict.sentence} {verdict.meaning}", width())


def verdict_text(verdict: Verdict, advice: Callable[[Advice], str] = Advice.in_python) -> str:
    """Write what is left under the worst of all attacks, and each check with its evidence."""
    bounds = [
        f"{left.threat.text(left.eps)}: under the worst of all attacks {left.accuracy.percent()}"
        f" (strongest: {left.attack}{'' if left.less_alone is None else f', alone {100 * left.less_alone:.1f} %'})"
        for left in verdict.robust
    ]
    bounds += [
        f"{left.threat.text(left.eps)}: an attacker who may try {left.tries} times leaves"
        f" {left.accuracy.percent()} ({left.attack})"
        for left in verdict.persistent
    ]
    if any(left.less_alone is not None for left in verdict.robust):
        bounds.append(textwrap.fill(_CHOSEN, width()))
    return "\n".join([*bounds, "", *_checks_text(verdict.checks), *_not_run_text(verdict.checks, advice)])


def _checks_text(checks: Sequence[Check]) -> Iterator[str]:
    answered = [check for check in checks if check.outcome in _MARKS]
    if answered:
        yield f"Checks ({', '.join(f'{mark} {outcome}' for outcome, mark in _MARKS.items())}):"
    for check in answered:
        yield f"{_MARKS[check.outcome]} {check.statement}"
        more = f"; {check.how.about_images}" if check.how else ""
        yield textwrap.fill(
            check.evidence + more, width(), initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )


def _not_run_text(checks: Sequence[Check], advice: Callable[[Advice], str]) -> Iterator[str]:
    """Yield the properties that nothing tells of yet, and below them, on a line that is never broken, what to add."""
    missing = [check for check in checks if check.outcome == "not run"]
    if missing:
        yield "Not run (join several attacks with +):"
    for told, group in by_advice(missing, advice):
        for check in group:
            yield textwrap.fill(f"– {check.statement}", width(), subsequent_indent="  ", break_on_hyphens=False)
        yield f"  {told}"
    if len(missing) > 1 and 2 * sum(check.key in ANSWERED for check in missing) > len(missing):
        yield f"At once: {advice(ADAPTIVE)} answers most of these."


def by_advice(checks: Sequence[Check], advice: Callable[[Advice], str]) -> list[tuple[str, list[Check]]]:
    """Group checks that were not run by what to add for an answer, or by why there can be none."""
    found: dict[str, list[Check]] = {}
    for check in checks:
        found.setdefault(f"add {advice(check.how)}" if check.how else check.evidence, []).append(check)
    return list(found.items())

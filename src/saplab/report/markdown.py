"""Results as a page of Markdown, for a repository: claims, drawings and numbers, from plain values."""

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from saplab.metrics.intervals import Interval
from saplab.metrics.scores import Change, Score
from saplab.report.tables import columns_of, texts

T = TypeVar("T")


def page_text(title: str, parts: Iterable[str], command: str, machine: Mapping[str, str]) -> str:
    """Return a whole page: parts that are not empty, the command that makes the results, and how they were made."""
    facts = "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in machine.items())
    return paragraphs(f"# {escaped(title)}", *parts, "## Made by", fenced(command), facts) + "\n"


def fenced(text: str) -> str:
    """Return a text as a block of code that nothing in it can end."""
    fence = _marks(text, 3)
    return f"{fence}\n{text}\n{fence}"


def code(text: str) -> str:
    """Return a text as code within a line that nothing in it can end."""
    line = " ".join(text.split())
    mark = _marks(line, 1)
    pad = " " if "`" in line else ""
    return f"{mark}{pad}{line}{pad}{mark}"


def _marks(text: str, least: int) -> str:
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def escaped(text: str) -> str:
    """Return a text as one line of Markdown that shows it as it is: no HTML, no link, no end of a table's cell."""
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"[\\`*\[|~]|(?<!\w)_|_(?!\w)|^(?:[#+-]|\d+(?=[.)]\s))", _after_backslash, line)


def _after_backslash(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def paragraphs(*parts: str) -> str:
    """Return the parts that are not empty, with empty lines between them."""
    return "\n\n".join(filter(None, parts))


def drawing_text(title: str, name: str) -> str:
    """Return a reference to the drawing with a name."""
    return f"![{escaped(title)}](figures/{quote(name)}.svg)"


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]], *, mark: str = "---:") -> str:
    """Return a table of Markdown whose first column is text; `mark` aligns the others, by default as numbers."""
    marks = ["---", *[mark] * (len(columns) - 1)]
    lines = [columns, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pivot_text(
    corner: str, table: Mapping[str, Mapping[Any, T]], cell: Callable[[T], str], heading: str = "λ = {:g}"
) -> str:
    """Return a pivoted table; `heading` is the format of what stands above it, and `corner` stands above the labels."""
    rows = [(escaped(label), *row) for label, row in zip(table, texts(table, cell), strict=True)]
    return table_text((corner, *map(heading.format, columns_of(table))), rows)


def accuracy_text(accuracy: Interval, paper: float | None = None) -> str:
    """Return a share in % with its interval, and the paper's: ``78.0 [74.2, 81.4]; paper 78.5``."""
    estimate, low, high = (f"{100 * share:.1f}" for share in (accuracy.estimate, accuracy.low, accuracy.high))
    return f"{estimate} [{low}, {high}]" + ("" if paper is None else f"; paper {paper:.1f}")


def score_text(score: Score) -> str:
    """Return mean points with their interval: ``1,611.0 [1,579.3, 1,642.7]``."""
    spread = "" if score.low is None or score.high is None else f" [{score.low:,.1f}, {score.high:,.1f}]"
    return f"{score.mean:,.1f}{spread}"


def change_text(change: Change | None, compared: bool, paper: float | None) -> str:
    """Return a relative change in % with its interval, and the paper's; blank where the ratio says nothing."""
    known = "blank" if compared else "–"
    if change is not None:
        known = f"{change.percent:+.1f} [{change.low:+.1f}, {change.high:+.1f}]"
    return known + ("" if paper is None else f"; paper {paper:+.1f}")

"""A study's results as a page of Markdown, for a repository: claims, drawings and numbers."""

from collections.abc import Iterable, Mapping, Sequence

from saplab.report.claims import Judged
from saplab.report.rows import Row, strength_text


def rows_text(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """Write a table; its first column is text, the others are numbers on the right where `numbers` says so."""
    marks = ["---", *["---:" if numbers else "---"] * (len(columns) - 1)]
    lines = [columns, marks, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def study_text(
    title: str,
    command: str,
    tally: str,
    judged: Sequence[tuple[str, Judged]],
    sections: Iterable[tuple[str, Iterable[str], Sequence[Row]]],
    machine: Mapping[str, str],
) -> str:
    """Write a study's results.

    Args:
        title, command: of the run.
        tally: how the claims fared, in a sentence.
        judged: (figure's name, judged claim).
        sections: (figure's title, names of its drawings, its rows); a figure without rows is not computed.
        machine: how the numbers were made.
    """
    parts = [f"# {title}"]
    if judged:
        parts += [tally, rows_text(("claim", "figure", "found", "evidence: first curve minus second"),
                                   [_claim(figure, found) for figure, found in judged], numbers=False)]  # fmt: skip
    for heading, drawings, rows in sections:
        shown = [f"![{heading}](figures/{name}.svg)" for name in drawings]
        parts += [f"## {heading}", *shown, _numbers(rows) if rows else "Not computed."]
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    parts += ["## Made by", f"```\n{command}\n```", facts]
    return "\n\n".join(parts) + "\n"


def _claim(figure: str, found: Judged) -> tuple[str, ...]:
    claim = found.claim
    evidence = f"{claim.first} − {claim.second}. {found.evidence}" if found.evidence else "–"
    return claim.text, figure, f"**{found.outcome}**", evidence


def _numbers(rows: Sequence[Row]) -> str:
    """Write accuracies in % by curve and strength, with 95 % intervals and the paper's numbers."""
    strengths = sorted({row.strength for row in rows})
    by_curve: dict[str, dict[float, Row]] = {}
    for row in rows:
        by_curve.setdefault(row.curve, {})[row.strength] = row
    lines = [
        (label, *(_accuracy(found[s]) if s in found else "–" for s in strengths)) for label, found in by_curve.items()
    ]
    return rows_text(("accuracy, %", *(f"λ = {strength_text(s)}" for s in strengths)), lines)


def _accuracy(row: Row) -> str:
    estimate, low, high = (f"{100 * x:.1f}" for x in (row.averaged.estimate, row.averaged.low, row.averaged.high))
    paper = f"; paper {row.paper:.1f}" if row.paper is not None else ""
    return f"{estimate} [{low}, {high}]{paper}"

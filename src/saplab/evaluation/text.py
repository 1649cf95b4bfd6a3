"""An evaluation in plain text: the table and the verdict, for a terminal, a pipe or a notebook."""

from collections.abc import Sequence

from saplab.evaluation.rows import Row
from saplab.evaluation.verdict import Verdict


def table_text(rows: Sequence[Row]) -> str:
    """Lay out accuracies in %, with their 95 % intervals: a line for each curve, a column for each λ."""
    drawn = [row for row in rows if not row.across]
    cells = {(row.curve, row.strength): row for row in drawn}
    strengths = sorted({row.strength for row in drawn})
    table = [["accuracy, %", *(f"λ = {strength:g}" for strength in strengths)]]
    for curve in dict.fromkeys(row.curve for row in drawn):
        own = (cells.get((curve, strength)) for strength in strengths)
        table.append([curve, *("–" if row is None else cell_text(row) for row in own)])
    widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in table]
    return "\n".join([*lines, "", note_text(drawn)])


def cell_text(row: Row) -> str:
    """Write an accuracy in % with the larger side of its interval: ``85.2 ±1.9``."""
    a = row.averaged
    return f"{100 * a.estimate:.1f} ±{100 * max(a.high - a.estimate, a.estimate - a.low):.1f}"


def note_text(rows: Sequence[Row]) -> str:
    """Explain the words of the table, one line each."""
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


def bounds_text(verdict: Verdict) -> str:
    """Write what is left under the worst of all attacks, a line for each λ."""
    return "\n".join(
        f"λ = {left.strength:g}: under the worst of all attacks {left.accuracy.percent()} (strongest: {left.attack})"
        for left in verdict.robust
    )


def verdict_text(verdict: Verdict) -> str:
    """Write the bounds, each check with its outcome, and the sentence."""
    width = max(len(check.question) for check in verdict.checks)
    checks = [f"{check.question.ljust(width)}  {check.outcome}" for check in verdict.checks]
    return "\n".join([bounds_text(verdict), "", *checks, "", verdict.sentence])

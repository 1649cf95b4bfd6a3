"""The results of a study or of Table 1 as a page of Markdown, for a repository: claims, drawings and numbers."""

from collections.abc import Iterable, Mapping, Sequence

from saplab.evaluation.rows import Row, strength_text
from saplab.metrics.scores import Score
from saplab.paper import game_table as games
from saplab.paper.claims import Judged

_BLANK = "blank"


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
        parts += [tally, _claims_text("figure", "curve", judged)]
    for heading, drawings, rows in sections:
        shown = [f"![{heading}](figures/{name}.svg)" for name in drawings]
        parts += [f"## {heading}", *shown, _numbers(rows) if rows else "Not computed."]
    return _ended(parts, command, machine)


def table_text(
    title: str,
    command: str,
    tally: str,
    judged: Sequence[tuple[str, Judged]],
    changes: Sequence[games.Row],
    sections: Iterable[tuple[str, str, Sequence[games.Row]]],
    machine: Mapping[str, str],
) -> str:
    """Write the results of Table 1.

    Args:
        title, command: of the run.
        tally: how the claims fared, in a sentence.
        judged: (game's name, judged claim).
        changes: the rows of Table 1 itself: those of SAP-100.
        sections: (game's name, what is known of its agent, its rows).
        machine: how the numbers were made.
    """
    parts = [f"# {title}"]
    if judged:
        parts += [tally, _claims_text("game", "agent", judged)]
    sections = list(sections)
    if any(rows for _, _, rows in sections):
        parts += ["![Mean points against strength](figures/points.svg)"]
    names = {rows[0].game: name for name, _, rows in sections if rows}
    if changes:
        parts += ["## Relative change of the mean points, SAP-100 against the original agent", _changes(changes, names)]
    for name, note, rows in sections:
        parts += [f"## {name}", *([note] if note else []), _points(rows) if rows else "Not played."]
    return _ended(parts, command, machine)


def _ended(parts: list[str], command: str, machine: Mapping[str, str]) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    return "\n\n".join([*parts, "## Made by", f"```\n{command}\n```", facts]) + "\n"


def _claims_text(place: str, line: str, judged: Sequence[tuple[str, Judged]]) -> str:
    columns = ("claim", place, "found", f"evidence: first {line} minus second")
    return rows_text(columns, [_claim(name, found) for name, found in judged], numbers=False)


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


def _changes(rows: Sequence[games.Row], names: Mapping[str, str]) -> str:
    """Write the changes in % by strength and game, with 95 % intervals and the paper's numbers."""
    found = {(row.game, row.strength): row for row in rows}
    strengths = sorted({row.strength for row in rows})
    lines = [
        (strength_text(s), *(_change(found[game, s]) if (game, s) in found else "–" for game in names))
        for s in strengths
    ]
    return rows_text(("λ", *(f"{name}, %" for name in names.values())), lines)


def _change(row: games.Row) -> str:
    change, paper = row.change, f"; paper {row.paper:+.1f}" if row.paper is not None else ""
    if change is None:
        return (_BLANK if row.compared else "–") + paper
    return f"{change.percent:+.1f} [{change.low:+.1f}, {change.high:+.1f}]{paper}"


def _points(rows: Sequence[games.Row]) -> str:
    """Write mean points by agent and strength, with 95 % intervals."""
    found = {(row.label, row.strength): row.score for row in rows}
    strengths = sorted({row.strength for row in rows})
    lines = [
        (label, *(_score(found[label, s]) if (label, s) in found else "–" for s in strengths))
        for label in dict.fromkeys(row.label for row in rows)
    ]
    return rows_text(("mean points", *(f"λ = {strength_text(s)}" for s in strengths)), lines)


def _score(score: Score) -> str:
    spread = "" if score.low is None or score.high is None else f" [{score.low:,.1f}, {score.high:,.1f}]"
    return f"{score.mean:,.1f}{spread}"

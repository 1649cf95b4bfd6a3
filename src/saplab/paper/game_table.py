"""Lines of a table of games, and its rows from the stored scores."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from saplab.defenses.specs import defense_label, has_rules
from saplab.metrics.scores import Change, Score, mean_score, relative_change
from saplab.paper.published import PAPER_CHANGES
from saplab.runs import BrokenCellError
from saplab.runs.game_cell import GameCell
from saplab.runs.game_store import GameStore

_ATTACK_NAMES: Final = {"noise": "random noise", "pgd": "PGD", "apgd": "APGD", "square": "Square"}


@dataclass(frozen=True)
class Line:
    """One agent against one adversary in one game: the cells of each strength.

    Args:
        label: what a person reads ("SAP-100, identity backward").
        cells: by strength; of one strength, cells that differ in their seed and their range of episodes alone.
        against: the original agent's line, which changes are relative to; None for that line itself.
        paper: the paper's changes in %, by strength, where they exist.
    """

    label: str
    cells: Mapping[float, tuple[GameCell, ...]]
    against: "Line | None" = None
    paper: Mapping[float, float] = field(default_factory=dict)

    @property
    def all_cells(self) -> tuple[GameCell, ...]:
        """Give the cells of all strengths."""
        return tuple(cell for cells in self.cells.values() for cell in cells)


@dataclass(frozen=True)
class Row:
    """A line at one strength, and its change against the original agent at the same strength.

    Args:
        game, label, strength: as in `Line`.
        score: mean points, with its interval over episodes and seeds.
        compared: whether there is an original's score at this strength to compare with.
        change: relative change as the paper defines it; None where it is blank.
        paper: the paper's change in %, where it exists.
        steps: mean number of the agent's actions in a game.
    """

    game: str
    label: str
    strength: float
    score: Score
    compared: bool
    change: Change | None
    paper: float | None
    steps: float


def line(
    cell: GameCell, strengths: Sequence[float], seeds: int, against: Line | None = None, together: int | None = None
) -> Line:
    """Plan a line: copies of one cell at each strength, with so many seeds from the cell's own.

    Args:
        cell: what to copy.
        strengths: λ in pixel steps.
        seeds: how many.
        against: as in `Line`.
        together: episodes of a cell at most; None for all in one.
    """
    numbers = range(cell.seed, cell.seed + seeds)
    starts = range(cell.start, cell.stop, together or cell.stop - cell.start)
    parts = [replace(cell, start=a, stop=min(a + starts.step, cell.stop), seed=n) for n in numbers for a in starts]
    cells = {lam: tuple(replace(part, strength=lam).plain for part in parts) for lam in strengths}
    return Line(label_of(cell), cells, against, _papers_changes(cell) if against else {})


def _papers_changes(cell: GameCell) -> Mapping[float, float]:
    """Give the paper's changes for a cell like its own: SAP-100 everywhere, FGSM by its own mask gradient."""
    own = cell.adversary == cell.defender and cell.attack.get("backward") == "mask" and cell.attack["name"] == "fgsm"
    if cell.defender.defense != "sap:100" or cell.defender.sites or cell.newest or cell.sticky or not own:
        return {}
    return PAPER_CHANGES.get(cell.game, {})


def rows(store: GameStore, lines: Sequence[Line]) -> Iterator[Row]:
    """Yield a row for each line and strength whose cells are all stored."""
    for one in lines:
        for strength, cells in one.cells.items():
            scores = scores_of(store, cells)
            if scores is None:
                continue
            base = scores_of(store, one.against.cells.get(strength, ())) if one.against else None
            change = relative_change(scores, base) if base else None
            steps = [n for cell in cells for n in store.load(cell).steps]
            mean_steps, paper = sum(steps) / len(steps), one.paper.get(strength)
            yield Row(cells[0].game, one.label, strength, mean_score(scores), bool(base), change, paper, mean_steps)


def to_records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Give the rows as JSON objects: points and changes with the ends of their intervals; None where there is none."""
    return [_record(row) for row in rows]


def to_csv(rows: Iterable[Row]) -> str:
    """Give the rows as CSV text with a header."""
    records = to_records(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(row: Row) -> dict[str, Any]:
    change = row.change
    return {
        "game": row.game, "agent": row.label, "strength": row.strength, "games": row.score.games,
        "points": row.score.mean, "points_low": row.score.low, "points_high": row.score.high,
        "change_percent": change and change.percent, "change_low": change and change.low,
        "change_high": change and change.high, "paper_percent": row.paper, "steps": row.steps,
    }  # fmt: skip


def scores_of(store: GameStore, cells: Sequence[GameCell]) -> list[float] | None:
    """Give the scores of cells, joined; None where one of them is not stored or damaged."""
    try:
        return [score for cell in cells for score in store.load(cell).scores]
    except (FileNotFoundError, BrokenCellError):
        return None


def label_of(cell: GameCell) -> str:
    """Name a line by defender, and by what its adversary does where that is not the plain choice."""
    parts = [defense_label(cell.defender.defense) if cell.defender.defense else "original"]
    name = cell.attack["name"]
    if name != "fgsm":
        steps = f"-{cell.attack['steps']}" if "steps" in cell.attack else ""
        parts.append(f"{_ATTACK_NAMES.get(name, name)}{steps}")
    if cell.adversary != cell.defender and name != "noise":
        parts.append("gradient of the original")
    elif "backward" in cell.attack and has_rules(cell.defender.defense):
        parts.append(f"{cell.attack['backward']} backward")
    return ", ".join([*parts, *(["newest frame"] if cell.newest else []), *(["sticky actions"] if cell.sticky else [])])

"""The report of Table 1: the table beside the paper's, every game's points, and each claim judged, on one page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saplab.arcade.claims import claims_of
from saplab.arcade.folder import is_table, read_table
from saplab.arcade.plan import STRENGTHS, TableRequest
from saplab.arcade.reference import PAPER_CHANGES, PUBLISHED
from saplab.arcade.scores import score_difference
from saplab.arcade.store import GameStore
from saplab.arcade.table import Line, Row, rows, scores_of, to_csv
from saplab.files import write_atomically
from saplab.report.charts import PAPER
from saplab.report.claims import Judged, together
from saplab.report.page import DARK, machine, template
from saplab.report.study import tally
from saplab.runs import BrokenCellError
from saplab.studies.study import Claim

__all__ = ["TableReport", "is_table", "judge", "write_table"]


@dataclass(frozen=True)
class TableReport:
    """What was written of a table, and what it says.

    Args:
        files: the page first.
        rows: of all games.
        judged: (game, judged claim).
        finished, total: stored cells, and cells of the request.
    """

    files: tuple[Path, ...]
    rows: tuple[Row, ...]
    judged: tuple[tuple[str, Judged], ...]
    finished: int
    total: int

    @property
    def tally(self) -> str:
        """Count the outcomes in a sentence."""
        return tally(self.judged)


def write_table(root: Path | str, title: str = "") -> TableReport:
    """Write ``report.html`` and ``table1.csv`` of a table into its run folder, finished or not.

    Raises:
        FileNotFoundError: if `root` is no run folder of a table.
        ValueError: if the folder's ``table1.json`` cannot be read.
        OSError: if a file cannot be written.
    """
    root = Path(root)
    request, store = read_table(root)
    lines = request.lines
    found = tuple(row for of_game in lines.values() for row in rows(store, of_game))
    judged = tuple((game, judge(claim, store, ls)) for game, ls in lines.items() for claim in claims_of(game, ls))
    made = list(_made(store, request))
    files = (root / "report.html", root / "table1.csv")
    report = TableReport(files, found, judged, len(made), len(request.cells))
    page = template("games.html").render(
        title=title or request.title, request=request, report=report, strengths=STRENGTHS, main=_main(found, lines),
        sections=[_section(entry, lines[entry.game], found) for entry in request.entries], machine=machine(made),
        paper={} if request.sticky else PAPER_CHANGES, themes={"light": PAPER, "dark": DARK},
    )  # fmt: skip
    write_atomically(files[0], page.encode())
    write_atomically(files[1], to_csv(found).encode())
    return report


def judge(claim: Claim, store: GameStore, lines: Sequence[Line]) -> Judged:
    """Judge a claim about two lines by the difference of their mean points."""
    by_label = {one.label: one for one in lines}
    first, second = by_label[claim.first], by_label[claim.second]
    gaps = {}
    for strength in claim.strengths:
        scores = [scores_of(store, one.cells[strength]) for one in (first, second)]
        if scores[0] and scores[1] and (gap := score_difference(scores[0], scores[1])):
            gaps[strength] = gap
    if not gaps:
        return Judged(claim, "not computed", "")
    texts = [f"λ = {s:g}: {gap.estimate:+.1f} points [{gap.low:+.1f}, {gap.high:+.1f}]" for s, gap in gaps.items()]
    left = [f"λ = {strength:g} not computed" for strength in claim.strengths if strength not in gaps]
    return Judged(claim, together(claim, list(gaps.values())), "; ".join(texts + left))


def _main(found: Sequence[Row], lines: Mapping[str, Sequence[Line]]) -> dict[str, dict[float, Row]]:
    """Lay out Table 1 itself: by game, the rows of SAP-100 by strength."""
    sap = {game: of_game[1].label for game, of_game in lines.items()}
    return {
        game: {row.strength: row for row in found if (row.game, row.label) == (game, label)}
        for game, label in sap.items()
    }


def _section(entry: Any, lines: Sequence[Line], found: Sequence[Row]) -> dict[str, Any]:
    """Give a game's points by line and strength."""
    own = {(row.label, row.strength): row for row in found if row.game == entry.game}
    table = {one.label: {s: own[one.label, s] for s in STRENGTHS if (one.label, s) in own} for one in lines}
    return {"game": entry.game, "note": entry.note, "table": table, "published": PUBLISHED.get(entry.game)}


def _made(store: GameStore, request: TableRequest) -> Iterator[Mapping[str, Any]]:
    for cell in request.cells:
        try:
            yield store.load(cell).made
        except (FileNotFoundError, BrokenCellError):
            continue

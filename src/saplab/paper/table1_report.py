"""The report of Table 1: the table beside the paper's, every game's points, and each claim judged, on one page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saplab.evaluation.report import DARK, machine, template
from saplab.metrics.scores import score_difference
from saplab.paper.claims import Judged, together
from saplab.paper.game_table import Line, Row, rows, scores_of, to_csv, to_records
from saplab.paper.published import PAPER_CHANGES
from saplab.paper.report import tally
from saplab.paper.study import Claim
from saplab.paper.table1 import STRENGTHS, TableRequest
from saplab.paper.table1_claims import claims_of
from saplab.paper.table1_folder import is_table, read_table
from saplab.report.charts import PAGE, PAPER, Theme, to_bytes
from saplab.report.figures import points_chart
from saplab.report.markdown import table_text
from saplab.rl.published import PUBLISHED
from saplab.runs import BrokenCellError
from saplab.runs.game_store import GameStore
from saplab.system.files import write_atomically

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
    """Write a table's report into its run folder, finished or not.

    That is ``report.html``; ``results.md``, the same for a repository; ``table1.csv``; and, once there are points to
    draw, ``figures/points.svg`` and ``figures/points.pdf``.

    Raises:
        FileNotFoundError: if `root` is no run folder of a table.
        ValueError: if the folder's ``table1.json`` cannot be read.
        OSError: if a file cannot be written; those before it are whole.
    """
    root = Path(root)
    request, store = read_table(root)
    lines = request.lines
    found = tuple(row for of_game in lines.values() for row in rows(store, of_game))
    judged = tuple((game, judge(claim, store, ls)) for game, ls in lines.items() for claim in claims_of(game, ls))
    made = list(_made(store, request))
    title = title or request.title
    drawings = {f"figures/points.{kind}": _drawing(found, PAPER, kind) for kind in ("svg", "pdf") if found}
    names = ("report.html", "results.md", "table1.csv", *drawings)
    report = TableReport(tuple(root / name for name in names), found, judged, len(made), len(request.cells))
    contents = {"report.html": _page(request, report, machine(made), title).encode(),
                "results.md": _markdown(request, report, machine(made), title).encode(),
                "table1.csv": to_csv(found).encode(), **drawings}  # fmt: skip
    if drawings:
        (root / "figures").mkdir(exist_ok=True)
    for name, content in contents.items():
        write_atomically(root / name, content)
    return report


def _drawing(found: Sequence[Row], theme: Theme, kind: Literal["svg", "pdf"]) -> bytes:
    records = [{**record, "game": _name(record["game"])} for record in to_records(found)]
    return to_bytes(points_chart(records, theme), kind)


def _page(request: TableRequest, report: TableReport, facts: Mapping[str, str], title: str) -> str:
    lines, found = request.lines, report.rows
    return template("games.html").render(
        title=title, request=request, report=report, strengths=STRENGTHS, main=_main(found, lines),
        sections=[_section(entry, lines[entry.game], found) for entry in request.entries], machine=facts, name=_name,
        drawing=_drawing(found, PAGE, "svg").decode() if found else "",
        paper={} if request.sticky else PAPER_CHANGES, themes={"light": PAPER, "dark": DARK},
    )  # fmt: skip


def _markdown(request: TableRequest, report: TableReport, facts: Mapping[str, str], title: str) -> str:
    changes = [row for of_game in _main(report.rows, request.lines).values() for row in of_game.values()]
    judged = [(_name(game), one) for game, one in report.judged]
    sections = [
        (_name(entry.game), entry.note, [row for row in report.rows if row.game == entry.game])
        for entry in request.entries
    ]
    return table_text(title, request.command, report.tally, judged, changes, sections, facts)


def _name(game: str) -> str:
    """Give a game's name as the paper writes it."""
    return game.title().replace("_", "")


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

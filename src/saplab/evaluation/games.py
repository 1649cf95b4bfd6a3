"""The report of games that an agent played: an offline page with its picture, the chart as files, and the numbers."""

from dataclasses import dataclass, field
from pathlib import Path

from saplab.evaluation.rows import GameRow, Summary, summarise
from saplab.report.charts import DARK, PAPER, to_bytes
from saplab.report.games import points_chart
from saplab.report.page import machine, template
from saplab.report.tables import pivot, to_csv, to_parquet
from saplab.runs import Store
from saplab.system.folder import write_files


@dataclass(frozen=True)
class GamesReport:
    """What was written of games (the page first), and what it says."""

    files: tuple[Path, ...]
    summary: Summary = field(repr=False)


def write_games(store: Store, title: str = "") -> GamesReport:
    """Write ``report.html``, the numbers as CSV and Parquet, and the chart as SVG, PNG and PDF into the run's folder.

    No page is written while no radius is finished. Raises ValueError while no cell is stored.
    """
    summary = summarise(store)
    records = [{**row.record(), "game": row.game} for row in summary.games]
    if not records:
        return GamesReport((), summary)
    chart = points_chart(records, PAPER)
    contents = {
        "report.html": _page(store, summary, title or store.request.title, to_bytes(chart, "svg").decode()).encode(),
        "points.csv": to_csv(records).encode(),
        "points.parquet": to_parquet(records),
        **{f"points.{kind}": to_bytes(chart, kind) for kind in ("svg", "png", "pdf")},
    }
    return GamesReport(write_files(store.root, contents), summary)


def _page(store: Store, summary: Summary, title: str, drawing: str) -> str:
    by_game: dict[str, list[GameRow]] = {}
    for row in summary.games:
        by_game.setdefault(row.game, []).append(row)
    return template("games.html").render(
        title=title, request=store.request, summary=summary, drawing=drawing,
        tables={game: pivot(rows, lambda row: row.curve, lambda row: row.strength) for game, rows in by_game.items()},
        compared=any(row.compared for row in summary.games),
        games=" or ".join(str(n) for n in sorted({row.score.games for row in summary.games})),
        themes={"light": PAPER, "dark": DARK}, machine=machine(summary.made),
    )  # fmt: skip

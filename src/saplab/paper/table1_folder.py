"""The run folder of a table: ``table1.json``, the games, and how far it is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from saplab.paper.table1 import TableRequest
from saplab.runs.game_cell import GameCell
from saplab.runs.game_store import GameStore, game_store
from saplab.runs.progress import Plan, Progress, progress
from saplab.system.files import write_atomically

TABLE: Final = "table1.json"


def is_table(root: Path | str) -> bool:
    """Tell whether a run folder holds Table 1."""
    return (Path(root) / TABLE).is_file()


def open_table(root: Path | str, request: TableRequest) -> GameStore:
    """Make the run folder `root`, or go on with the one that is there; games of other requests stay in it.

    Raises:
        OSError: it cannot be made or written.
    """
    store = game_store(root, request.cells)
    store.make()
    write_atomically(store.root / TABLE, request.to_json().encode())
    return store


def read_table(root: Path | str) -> tuple[TableRequest, GameStore]:
    """Give what the run folder `root` was asked for, and its games.

    Raises:
        FileNotFoundError: if `root` is no run folder of a table.
        ValueError: if its request cannot be read.
    """
    request = TableRequest.from_json((Path(root) / TABLE).read_text(encoding="utf-8"))
    return request, game_store(root, request.cells)


def table_progress(root: Path | str) -> Progress:
    """Look how far a table is; the time left is by the number of games.

    Raises:
        FileNotFoundError, ValueError: see `read_table`.
    """
    request, store = read_table(root)
    curves = [(f"{game}: {one.label}", one.all_cells) for game, lines in request.lines.items() for one in lines]
    survey = replace(store.survey(), foreign=())  # of runs that share the folder
    return progress(Plan(store.root, request.title, request.command, curves, _games, "episodes"), survey)


def _games(cells: Sequence[GameCell]) -> int:
    return sum(cell.stop - cell.start for cell in cells)

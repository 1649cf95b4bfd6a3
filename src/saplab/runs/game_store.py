"""Stored results of games: the JSON file of a cell, and the folder of them.

Runs may share a folder: a cell that one of them computed is there for all.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saplab.runs import BrokenCellError
from saplab.runs.cellfiles import CellFiles, Format
from saplab.runs.game_cell import GameCell


@dataclass(frozen=True)
class GameResult:
    """What a cell's games gave, in the order of the episodes.

    Args:
        scores: points, as the game counts them.
        steps: the agent's actions.
        made: how it was made (versions, threads, platform, seconds, time); decides no number.

    Raises:
        ValueError: for no episode, or another number of scores than of steps.
    """

    scores: tuple[float, ...]
    steps: tuple[int, ...]
    made: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.steps):
            raise ValueError(f"`scores` and `steps` must be as many, got {len(self.scores)} and {len(self.steps)}")


GameStore = CellFiles[GameCell, GameResult]


def game_store(root: Path | str, cells: Iterable[GameCell] = ()) -> GameStore:
    """Give the stored results in the folder `root`, of which `cells` are wanted; nothing is made or changed."""
    return CellFiles(Path(root), "games", Format(".json", encode, decode), {cell.digest: cell for cell in cells})


def encode(cell: GameCell, result: GameResult) -> bytes:
    """Give the bytes of a cell's file.

    Raises:
        ValueError: if the result has another number of episodes than the cell.
    """
    if len(result.scores) != cell.stop - cell.start:
        raise ValueError(f"`result` must hold {cell.stop - cell.start} episodes, got {len(result.scores)}")
    body = {"cell": json.loads(cell.to_json()), "scores": result.scores, "steps": result.steps}
    content = {**body, "made": dict(result.made), "sha256": _checksum(body)}
    return (json.dumps(content, sort_keys=True) + "\n").encode()


def decode(path: Path, cell: GameCell) -> GameResult:
    """Read a cell's file, checked against its checksum.

    Raises:
        FileNotFoundError: if there is none.
        BrokenCellError: if it is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "this cell has not been computed yet", str(path))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        body = {name: content[name] for name in ("cell", "scores", "steps")}
        result = GameResult(tuple(body["scores"]), tuple(body["steps"]), content["made"])
        whole = content["sha256"] == _checksum(body)
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenCellError(f"{path} is damaged: {error!r}") from error
    if not whole:
        raise BrokenCellError(f"{path} is damaged: its numbers do not match its checksum")
    if body["cell"] != json.loads(cell.to_json()):
        raise BrokenCellError(f"{path} holds the result of another cell")
    return result


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

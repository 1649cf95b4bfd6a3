"""A folder of finished cells, one atomic JSON file each, named by what was asked for.

Runs may share a folder: a cell that one of them computed is there for all.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saplab.arcade.cell import GameCell
from saplab.files import remove_leftovers, write_atomically
from saplab.runs import BrokenCellError


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


@dataclass(frozen=True)
class GameStore:
    """Stored results of cells; get one by `open`."""

    root: Path

    @classmethod
    def open(cls, root: Path | str) -> "GameStore":
        """Make the folder, or go on with the one that is there.

        Raises:
            OSError: it cannot be made.
        """
        root = Path(root)
        root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root)
        return cls(root)

    def path(self, cell: GameCell) -> Path:
        """Give the file of `cell`, whether it is there or not."""
        return self.root / f"{cell.digest}.json"

    def save(self, cell: GameCell, result: GameResult) -> None:
        """Write `result` as the file of `cell`, whole or not at all.

        Raises:
            ValueError: if the result has another number of episodes than the cell.
            OSError: if it cannot be written; for a full disk with advice.
        """
        if len(result.scores) != cell.stop - cell.start:
            raise ValueError(f"`result` must hold {cell.stop - cell.start} episodes, got {len(result.scores)}")
        body = {"cell": json.loads(cell.to_json()), "scores": result.scores, "steps": result.steps}
        content = {**body, "made": dict(result.made), "sha256": _checksum(body)}
        write_atomically(self.path(cell), (json.dumps(content, sort_keys=True) + "\n").encode())

    def load(self, cell: GameCell) -> GameResult:
        """Read the result of `cell`, checked against its checksum.

        Raises:
            FileNotFoundError: if the cell has no file.
            BrokenCellError: if the file is damaged or holds something else.
        """
        path = self.path(cell)
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

    def missing(self, cells: Iterable[GameCell]) -> tuple[GameCell, ...]:
        """Give those of `cells` that still have to be computed, in order, each once; a damaged one counts."""
        return tuple(cell for cell in {cell.digest: cell for cell in cells}.values() if not self._has(cell))

    def _has(self, cell: GameCell) -> bool:
        try:
            self.load(cell)
        except (FileNotFoundError, BrokenCellError):
            return False
        return True


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

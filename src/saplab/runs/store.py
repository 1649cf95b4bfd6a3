"""A run folder: ``request.json`` and one atomic file a cell, so that a killed run goes on where it stopped."""

from dataclasses import dataclass
from pathlib import Path

from saplab.runs.cell import Cell
from saplab.runs.cellfiles import CellFiles, Format, Survey
from saplab.runs.request import Request
from saplab.runs.results import DTYPES, SUFFIX, BrokenCellError, CellResult, decode, encode, join
from saplab.system.files import is_temporary, write_atomically

__all__ = ["DTYPES", "BrokenCellError", "CellResult", "Store", "Survey", "join"]


@dataclass(frozen=True)
class Store:
    """The stored results of one request; get one by `open` or `read`."""

    root: Path
    request: Request

    @classmethod
    def open(cls, root: Path | str, request: Request, extend: bool = False) -> "Store":
        """Make the run folder `root`, or go on with the one that is there.

        A folder that was asked for something else, but holds no cell yet, is taken over.

        Args:
            root: of the run.
            request: what it shall hold.
            extend: whether curves that the folder was not asked for yet are added to its request.

        Raises:
            ValueError: if `root` holds another request, or files of something else. Nothing is changed then.
            OSError: if `root` cannot be made or written.
        """
        root = Path(root)
        if not (root / "request.json").exists():
            _refuse_foreign(root)
            (root / "cells").mkdir(parents=True, exist_ok=True)
            write_atomically(root / "request.json", request.to_json().encode())
        store = cls.read(root)
        if wanted := store._changed(request, extend):
            write_atomically(root / "request.json", wanted.to_json().encode())
            store = cls(root, wanted)
        store._files.make()
        return store

    def _changed(self, request: Request, extend: bool) -> Request | None:
        """Give the request that takes the place of the folder's own; None where that stays."""
        own = self.request
        if next(self._files.names(), None) is None:
            return request if own.difference(request) else None
        if difference := own.conflict(request) if extend else own.difference(request):
            raise ValueError(f"{self.root} holds another request ({difference}); choose another --out")
        return own.extended(request) if extend else None

    @classmethod
    def read(cls, root: Path | str) -> "Store":
        """Open the run folder `root` to read from it.

        Raises:
            FileNotFoundError: if `root` is no run folder.
            ValueError: if its request cannot be read.
        """
        path = Path(root) / "request.json"
        if not path.is_file():
            raise FileNotFoundError(2, "not a run folder, it has no request.json", str(root))
        try:
            return cls(Path(root), Request.from_json(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def path(self, cell: Cell) -> Path:
        """Give the file of `cell`, whether it is there or not."""
        return self._files.path(cell)

    def save(self, cell: Cell, result: CellResult) -> None:
        """Write `result` as the file of `cell`; see `CellFiles.save`."""
        self._files.save(cell, result)

    def load(self, cell: Cell) -> CellResult:
        """Read the result of `cell`, checked against its checksum; see `CellFiles.load`."""
        return self._files.load(cell)

    def has(self, cell: Cell) -> bool:
        """Read the file of `cell`, and say whether it is there, whole and the cell's own."""
        return self._files.has(cell)

    def survey(self) -> Survey[Cell]:
        """Look at all files: read those that are new or changed since they were found whole, trust the others."""
        return self._files.survey()

    def missing(self) -> tuple[Cell, ...]:
        """Give the cells of the request that still have to be computed, in order."""
        return self._files.missing()

    def problems(self) -> list[str]:
        """Describe the files among the cells that are damaged or do not belong to the request, one line each."""
        found = self.survey()
        return sorted((*found.damaged, *found.foreign))

    @property
    def _files(self) -> CellFiles[Cell, CellResult]:
        return CellFiles(self.root, "cells", Format(SUFFIX, encode, decode), self.request.by_digest)


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder; choose another --out")
    cells = root / "cells"
    names = [path.name for path in root.glob("*") if path != cells and not is_temporary(path)]
    names += [f"cells/{path.name}" for path in cells.glob("*") if not is_temporary(path)]
    if names:
        raise ValueError(f"{root} holds other files ({', '.join(sorted(names)[:3])}); choose another --out")

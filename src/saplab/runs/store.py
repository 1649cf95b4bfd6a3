"""A run folder: ``request.json`` and one atomic file a cell, so that a killed run goes on where it stopped."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from saplab.files import is_temporary, remove_leftovers, write_atomically
from saplab.runs.cellfile import DTYPES, SUFFIX, BrokenCellError, CellResult, decode, encode, join
from saplab.runs.index import Index, Stamp, stamp_of
from saplab.runs.request import Request
from saplab.studies import Cell

__all__ = ["DTYPES", "BrokenCellError", "CellResult", "Store", "Survey", "join"]


@dataclass(frozen=True)
class Survey:
    """What is in a run folder.

    Args:
        stored: when each whole cell was written, in nanoseconds, by its digest.
        missing: cells that still have to be computed, in the request's order.
        damaged: files of cells that are damaged or hold something else, one line each.
        foreign: files among the cells that belong to none, likewise.
    """

    stored: Mapping[str, int]
    missing: tuple[Cell, ...]
    damaged: tuple[str, ...]
    foreign: tuple[str, ...]


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
        remove_leftovers(root)
        remove_leftovers(root / "cells")
        return store

    def _changed(self, request: Request, extend: bool) -> Request | None:
        """Give the request that takes the place of the folder's own; None where that stays."""
        own = self.request
        if next(self._files(), None) is None:
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
        return self.root / "cells" / f"{cell.digest}.safetensors"

    def save(self, cell: Cell, result: CellResult) -> None:
        """Write `result` as the file of `cell`, whole or not at all; several threads may save at a time.

        Raises:
            ValueError: if the result has other strengths or another number of examples than the cell.
            OSError: if it cannot be written; for a full disk with advice.
        """
        path = self.path(cell)
        content = encode(cell, result)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)
        self._index.add([(cell.digest, stamp_of(path.stat()))])

    def load(self, cell: Cell) -> CellResult:
        """Read the result of `cell`, checked against its checksum.

        A damaged file is marked by a new time of change, so that the next run looks at it and computes it again.

        Raises:
            FileNotFoundError: if the cell has no file.
            BrokenCellError: if the file is damaged or holds something else.
        """
        path = self.path(cell)
        try:
            return decode(path, cell)
        except BrokenCellError:
            with suppress(OSError):
                os.utime(path)
            raise

    def has(self, cell: Cell) -> bool:
        """Read the file of `cell`, and say whether it is there, whole and the cell's own."""
        try:
            self.load(cell)
        except (FileNotFoundError, BrokenCellError):
            return False
        return True

    def survey(self) -> Survey:
        """Look at all files: read those that are new or changed since they were found whole, trust the others."""
        known, own = self._index.read(), self.request.by_digest
        stored: dict[str, int] = {}
        damaged, foreign, new = [], [], []
        for name, stamp in self._files():
            digest = name.removesuffix(SUFFIX)
            if digest not in own or not name.endswith(SUFFIX):
                foreign.append(f"{self.root / 'cells' / name} does not belong to this run")
            elif known.get(digest) == stamp:
                stored[digest] = stamp[1]
            elif problem := self._problem(own[digest]):
                damaged.append(problem)
            else:
                stored[digest] = stamp[1]
                new.append((digest, stamp))
        self._index.add(new)
        missing = tuple(cell for digest, cell in own.items() if digest not in stored)
        return Survey(stored, missing, tuple(damaged), tuple(foreign))

    def missing(self) -> tuple[Cell, ...]:
        """Give the cells of the request that still have to be computed, in order."""
        return self.survey().missing

    def problems(self) -> list[str]:
        """Describe the files among the cells that are damaged or do not belong to the request, one line each."""
        found = self.survey()
        return sorted((*found.damaged, *found.foreign))

    @property
    def _index(self) -> Index:
        return Index(self.root / "index.txt")

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        """Give name and stamp of each file among the cells, but for those that are being written."""
        folder = self.root / "cells"
        if not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_temporary(Path(entry.name)) and entry.is_file():
                    yield entry.name, stamp_of(entry.stat())

    def _problem(self, cell: Cell) -> str:
        try:
            self.load(cell)
        except (BrokenCellError, FileNotFoundError) as error:
            return str(error)
        return ""


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder; choose another --out")
    cells = root / "cells"
    names = [path.name for path in root.glob("*") if path != cells and not is_temporary(path)]
    names += [f"cells/{path.name}" for path in cells.glob("*") if not is_temporary(path)]
    if names:
        raise ValueError(f"{root} holds other files ({', '.join(sorted(names)[:3])}); choose another --out")

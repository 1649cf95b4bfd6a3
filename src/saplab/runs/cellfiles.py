"""The files of a run's cells, one atomic file each: which are there and whole, which are damaged or missing."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from saplab.runs.engines.base import AnyCell
from saplab.runs.index import Index, Stamp, stamp_of
from saplab.runs.results import BrokenCellError
from saplab.system.files import is_temporary, remove_leftovers, write_atomically

C = TypeVar("C", bound=AnyCell)
R = TypeVar("R")


@dataclass(frozen=True)
class Format(Generic[C, R]):
    """How a cell's result is written.

    Args:
        suffix: of a file's name, after the cell's digest.
        encode: gives a file's bytes; a ValueError for a result that does not fit the cell.
        decode: reads a file; `BrokenCellError` if it is damaged or another cell's, FileNotFoundError if there is none.
    """

    suffix: str
    encode: Callable[[C, R], bytes]
    decode: Callable[[Path, C], R]


@dataclass(frozen=True)
class Survey(Generic[C]):
    """What is in a run folder.

    Args:
        stored: when each whole cell was written, in nanoseconds, by its digest.
        missing: cells that still have to be computed, in the request's order.
        damaged: files of cells that are damaged or hold something else, one line each.
        foreign: files among the cells that belong to none, likewise.
    """

    stored: Mapping[str, int]
    missing: tuple[C, ...]
    damaged: tuple[str, ...]
    foreign: tuple[str, ...]


@dataclass(frozen=True)
class CellFiles(Generic[C, R]):
    """The files of cells in one folder of a run.

    Args:
        root: the run's folder, where the index is.
        name: of the folder in it that holds the files.
        format: of the files.
        wanted: the cells that are asked for, by digest.
    """

    root: Path
    name: str
    format: Format[C, R]
    wanted: Mapping[str, C]

    def make(self) -> None:
        """Make the folders where they are not there, and remove what an earlier run left half written.

        Raises:
            OSError: they cannot be made.
        """
        folder = self.root / self.name
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.root)
        remove_leftovers(folder)

    def path(self, cell: C) -> Path:
        """Give the file of `cell`, whether it is there or not."""
        return self.root / self.name / f"{cell.digest}{self.format.suffix}"

    def save(self, cell: C, result: R) -> None:
        """Write `result` as the file of `cell`, whole or not at all; several threads may save at a time.

        Raises:
            ValueError: if the result does not fit the cell.
            OSError: if it cannot be written; for a full disk with advice.
        """
        path = self.path(cell)
        content = self.format.encode(cell, result)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)
        self._index.add([(cell.digest, stamp_of(path.stat()))])

    def load(self, cell: C) -> R:
        """Read the result of `cell`, checked against its checksum.

        A damaged file is marked by a new time of change, so that the next run looks at it and computes it again.

        Raises:
            FileNotFoundError: if the cell has no file.
            BrokenCellError: if the file is damaged or holds something else.
        """
        path = self.path(cell)
        try:
            return self.format.decode(path, cell)
        except BrokenCellError:
            with suppress(OSError):
                os.utime(path)
            raise

    def has(self, cell: C) -> bool:
        """Read the file of `cell`, and say whether it is there, whole and the cell's own."""
        return not self._problem(cell)

    def survey(self) -> Survey[C]:
        """Look at all files: read those that are new or changed since they were found whole, trust the others."""
        known = self._index.read()
        stored: dict[str, int] = {}
        damaged, foreign, new = [], [], []
        for name, stamp in self.names():
            digest = name.removesuffix(self.format.suffix)
            if digest not in self.wanted or not name.endswith(self.format.suffix):
                foreign.append(f"{self.root / self.name / name} does not belong to this run")
            elif known.get(digest) == stamp:
                stored[digest] = stamp[1]
            elif problem := self._problem(self.wanted[digest]):
                damaged.append(problem)
            else:
                stored[digest] = stamp[1]
                new.append((digest, stamp))
        self._index.add(new)
        missing = tuple(cell for digest, cell in self.wanted.items() if digest not in stored)
        return Survey(stored, missing, tuple(damaged), tuple(foreign))

    def missing(self) -> tuple[C, ...]:
        """Give the cells asked for that still have to be computed, in order."""
        return self.survey().missing

    def names(self) -> Iterator[tuple[str, Stamp]]:
        """Give name and stamp of each file among the cells, but for those that are being written."""
        folder = self.root / self.name
        if not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_temporary(Path(entry.name)) and entry.is_file():
                    yield entry.name, stamp_of(entry.stat())

    @property
    def _index(self) -> Index:
        return Index(self.root / "index.txt")

    def _problem(self, cell: C) -> str:
        try:
            self.load(cell)
        except (BrokenCellError, FileNotFoundError) as error:
            return str(error)
        return ""

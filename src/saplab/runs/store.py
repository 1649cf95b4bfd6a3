"""Where results are kept: a run folder with ``request.json`` and one atomic file a cell, or memory."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from saplab.runs.cell import Cell
from saplab.runs.engines.base import Failed
from saplab.runs.record import note_failure, running
from saplab.runs.request import OldFormatError, Request
from saplab.runs.results import SUFFIX, BrokenCellError, decode, encode
from saplab.system.files import is_temporary, remove_leftovers, write_atomically

Stamp = tuple[int, int]  # size in bytes, time of the last change in nanoseconds

_REQUEST: Final = "request.json"
_CELLS: Final = "cells"
_ASIDE: Final = "earlier-version"
_OLD: Final = ("games", "table1.json")  # what earlier versions kept games in


@dataclass(frozen=True)
class Survey:
    """What a store holds.

    Attributes:
        stored: when each whole cell was written, in nanoseconds, by its digest.
        missing: cells that still have to be computed, in the request's order.
        damaged: files of cells that are damaged or hold something else, one line each.
        foreign: files among the cells that belong to none, likewise.
    """

    stored: Mapping[str, int]
    missing: tuple[Cell, ...]
    damaged: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


class Results(Protocol):
    """The results of a request: what a run fills and a report reads."""

    @property
    def request(self) -> Request:
        """Return what it shall hold."""

    def save(self, cell: Cell, result: Any) -> None:
        """Keep the result of a cell, whole or not at all; several threads may save at a time."""

    def load(self, cell: Cell) -> Any:
        """Return the result of a cell.

        Raises:
            FileNotFoundError: it has not been computed.
            BrokenCellError: it is damaged.
        """

    def survey(self) -> Survey:
        """Look at all that is held."""

    def running(self, engine: str) -> AbstractContextManager[None]:
        """Note that this process computes the request, until the context is left."""

    def note_failure(self, failed: Failed) -> None:
        """Note a group that was given up."""


@dataclass
class Memory:
    """Results in memory, for a run without a folder."""

    request: Request
    _results: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, cell: Cell, result: Any) -> None:
        """Keep the result of a cell; see `Results`."""
        result.check_cell(cell)
        self._results[cell.digest] = result

    def load(self, cell: Cell) -> Any:
        """Return the result of a cell; see `Results`."""
        if cell.digest not in self._results:
            raise FileNotFoundError(2, "this cell has not been computed yet", cell.digest)
        return self._results[cell.digest]

    def survey(self) -> Survey:
        """Look at all that is held; see `Results`."""
        missing = tuple(cell for digest, cell in self.request.by_digest.items() if digest not in self._results)
        return Survey(dict.fromkeys(self._results, 0), missing)

    def running(self, engine: str) -> AbstractContextManager[None]:
        """Note nothing; see `Results`."""
        return nullcontext()

    def note_failure(self, failed: Failed) -> None:
        """Note nothing: whoever runs gets the failures; see `Results`."""


@dataclass(frozen=True)
class Store:
    """The stored results of one request in the folder `root`; get one by `open` or `read`.

    Attributes:
        root: of the run.
        request: what it holds.
        note: a line that people should see about what `open` found; else empty.
    """

    root: Path
    request: Request
    note: str = ""

    @classmethod
    def open(cls, root: Path | str, request: Request, extend: bool = False) -> "Store":
        """Make the run folder `root`, or go on with the one that is there.

        A folder that was asked for something else, but holds no cell yet, is taken over; one of games takes any request
        for games. Results of an earlier version of saplab, whose keys were others, are put aside.

        Args:
            root: of the run.
            request: what it shall hold.
            extend: whether curves that the folder was not asked for yet are added to its request.

        Raises:
            ValueError: `root` holds another request, or files of something else. Nothing is changed then.
            OSError: `root` cannot be made or written.
        """
        root = Path(root)
        note = ""
        try:
            wanted = cls.read(root)._merged(request, extend)
        except (FileNotFoundError, OldFormatError):
            wanted = request
            if _is_old(root):
                note = _put_aside(root)
            _refuse_foreign(root)
        (root / _CELLS).mkdir(parents=True, exist_ok=True)
        if wanted is not None:
            write_atomically(root / _REQUEST, wanted.to_json().encode())
        store = cls(root, wanted or cls.read(root).request, note)
        remove_leftovers(root)
        remove_leftovers(root / _CELLS)
        return store

    def _merged(self, request: Request, extend: bool) -> Request | None:
        """Return the request that takes the place of the folder's own; None where that stays."""
        own = self.request
        if (own.shareable and request.shareable) or next(self._names(), None) is None:
            return request if own != request else None
        if difference := own.conflict(request) if extend else own.difference(request):
            raise ValueError(f"{self.root} holds another request ({difference}); choose another --out")
        return own.extended(request) if extend else None

    @classmethod
    def read(cls, root: Path | str) -> "Store":
        """Open the run folder `root` to read from it.

        Raises:
            FileNotFoundError: `root` is no run folder.
            OldFormatError: another version of saplab wrote it.
            ValueError: its request cannot be read.
        """
        path = Path(root) / _REQUEST
        if not path.is_file():
            raise FileNotFoundError(2, f"not a run folder, it has no {_REQUEST}", str(root))
        try:
            return cls(Path(root), Request.from_json(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise type(error)(f"{path} cannot be read: {error}") from error

    def path(self, cell: Cell) -> Path:
        """Return the file of `cell`, whether it is there or not."""
        return self.root / _CELLS / f"{cell.digest}{SUFFIX}"

    def save(self, cell: Cell, result: Any) -> None:
        """Write the result of a cell, whole or not at all.

        Raises:
            ValueError: the result does not fit the cell.
            OSError: it cannot be written; for a full disk with advice.
        """
        path = self.path(cell)
        content = encode(cell, result)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)
        self._index.add([(cell.digest, _stamp_of(path.stat()))])

    def load(self, cell: Cell) -> Any:
        """Read the result of a cell, checked against its checksum.

        A damaged file is marked by a new time of change, so that the next run looks at it and computes it again.

        Raises:
            FileNotFoundError: the cell has no file.
            BrokenCellError: the file is damaged or holds something else.
        """
        path = self.path(cell)
        try:
            return decode(path, cell)
        except BrokenCellError:
            with suppress(OSError):
                os.utime(path)
            raise

    def survey(self) -> Survey:
        """Look at all files: read those that are new or changed since they were found whole, trust the others."""
        wanted, known = self.request.by_digest, self._index.read()
        stored: dict[str, int] = {}
        damaged, foreign, new = [], [], []
        for name, stamp in self._names():
            digest = name.removesuffix(SUFFIX)
            if digest not in wanted or not name.endswith(SUFFIX):
                foreign.append(f"{self.root / _CELLS / name} does not belong to this run")
            elif known.get(digest) == stamp:
                stored[digest] = stamp[1]
            elif problem := self._problem(wanted[digest]):
                damaged.append(problem)
            else:
                stored[digest] = stamp[1]
                new.append((digest, stamp))
        self._index.add(new)
        missing = tuple(cell for digest, cell in wanted.items() if digest not in stored)
        return Survey(stored, missing, tuple(damaged), () if self.request.shareable else tuple(foreign))

    def running(self, engine: str) -> AbstractContextManager[None]:
        """Note in the folder that this process computes it, until the context is left."""
        return running(self.root, engine)

    def note_failure(self, failed: Failed) -> None:
        """Append a failure to the folder's list."""
        note_failure(self.root, failed)

    def _names(self) -> Iterator[tuple[str, Stamp]]:
        """Yield name and stamp of each file among the cells, but for those that are being written."""
        folder = self.root / _CELLS
        if not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_temporary(Path(entry.name)) and entry.is_file():
                    yield entry.name, _stamp_of(entry.stat())

    @property
    def _index(self) -> "_Index":
        return _Index(self.root / "index.txt")

    def _problem(self, cell: Cell) -> str:
        try:
            self.load(cell)
        except (BrokenCellError, FileNotFoundError) as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class _Index:
    """Which files were found whole, so that resuming need not read them again.

    One line a file: digest, size and time of the last change, the last line of a digest valid. It is a cache, as git's
    index is: a file of another size or time is read and checked, a lost or torn line costs one more look.
    """

    path: Path

    def read(self) -> Mapping[str, Stamp]:
        """Return the stamps by digest; none where there is no index."""
        found: dict[str, Stamp] = {}
        with suppress(OSError), self.path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
                    found[words[0]] = int(words[1]), int(words[2])
        return found

    def add(self, stamps: Iterable[tuple[str, Stamp]]) -> None:
        """Append lines; each begins with the end of the line before, which a full disk may have torn."""
        text = "".join(f"\n{digest} {size} {time}" for digest, (size, time) in stamps)
        if text:
            with suppress(OSError), self.path.open("ab", buffering=0) as file:
                file.write(text.encode())


def _stamp_of(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder; choose another --out")
    cells = root / _CELLS
    names = [path.name for path in root.glob("*") if path not in (cells, root / _ASIDE) and not is_temporary(path)]
    names += [f"{_CELLS}/{path.name}" for path in cells.glob("*") if not is_temporary(path)]
    if names:
        raise ValueError(f"{root} holds other files ({', '.join(sorted(names)[:3])}); choose another --out")


def _is_old(root: Path) -> bool:
    return any((root / name).exists() for name in (_REQUEST, *_OLD))


def _put_aside(root: Path) -> str:
    """Move the results of an earlier version into a folder of their own, and return a line that says so."""
    aside = root / _ASIDE
    aside.mkdir(exist_ok=True)
    names = (_CELLS, "index.txt", "run.json", "failures.jsonl", *_OLD, _REQUEST)  # the last one tells that it is old
    for name in (*names, *(path.name for path in root.glob("*.*") if path.name not in names)):
        if (root / name).exists():
            (root / name).replace(aside / name)
    return (
        f"{root} was computed by an earlier version, whose keys say less; its results are in {aside}, computing again"
    )

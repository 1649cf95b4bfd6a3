"""Where results are kept: a run folder with ``request.json`` and one atomic file a cell, or memory."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from saplab.runs.cell import Cell, EarlierVersionError
from saplab.runs.claim import LOCK, Claim, claim
from saplab.runs.earlier import check, prepare
from saplab.runs.engines.base import Failed
from saplab.runs.record import FAILURES, RUN, note_failure, running
from saplab.runs.request import DamagedRequestError, Request
from saplab.runs.results import SUFFIX, BrokenCellError, decode, encode
from saplab.system.files import is_temporary, remove_leftovers
from saplab.system.folder import NotPlainError, append_inside, inside, read_inside, require_plain, write_inside
from saplab.system.registry import no_imports_from

Stamp = tuple[int, int]  # size in bytes, time of the last change in nanoseconds

_REQUEST: Final = "request.json"
STUDY: Final = "study.json"  # of a study's figures, which `saplab.paper` writes
_CELLS: Final = "cells"
_INDEX: Final = "index.txt"  # a line for each file that was found whole: digest, size, time; the last line is valid
_DAMAGED: Final[Stamp] = (0, 0)  # no file's


@dataclass(frozen=True)
class Survey:
    """What a store holds.

    Attributes:
        stored: when each whole cell was written, in nanoseconds, by its digest.
        missing: cells that still have to be computed, in the request's order.
        damaged, foreign: a line for each file that is damaged, or that belongs to no cell.
    """

    stored: Mapping[str, int]
    missing: tuple[Cell, ...]
    damaged: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass
class Memory:
    """Results in memory, for a run without a folder; what a run fills and a report reads, as `Store` is."""

    request: Request
    _results: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, cell: Cell, result: Any) -> None:
        """Keep the result of a cell; several threads may save at a time."""
        result.check_cell(cell)
        self._results[cell.digest] = result

    def load(self, cell: Cell) -> Any:
        """Return the result of a cell, or raise a FileNotFoundError."""
        if cell.digest not in self._results:
            raise FileNotFoundError(2, "this cell has not been computed yet", cell.digest)
        return self._results[cell.digest]

    def verify(self) -> None:
        """Do nothing: what is in memory stays as it is."""

    def survey(self) -> Survey:
        """Look at all that is held."""
        missing = tuple(cell for digest, cell in self.request.by_digest.items() if digest not in self._results)
        return Survey(dict.fromkeys(self._results, 0), missing)

    def running(self, engine: str) -> AbstractContextManager[None]:
        """Note nothing."""
        return nullcontext()

    def note_failure(self, failed: Failed) -> None:
        """Note nothing: `run` returns the failures."""


@dataclass(frozen=True)
class Store:
    """The stored results of one request in the folder `root`; made by `open` or `read`."""

    root: Path
    request: Request
    note: str = ""  # a line that people should see about what `open` found
    _claim: Claim | None = field(default=None, repr=False, compare=False)
    _broken: set[str] = field(default_factory=set, repr=False, compare=False)  # digests of cells found damaged

    @classmethod
    def open(cls, root: Path | str, request: Request) -> "Store":
        """Make the run folder `root`, or go on with the one that is there.

        A folder that was asked for something else is taken over where it holds no cell yet and no other process uses
        it; one of games takes any request for games. Results of an earlier version of saplab, whose keys were others,
        are put aside. A damaged ``request.json`` is written anew, where all cells are of `request`.

        Args:
            root: of the run.
            request: what it shall hold; its words (title, names, the paper's numbers) replace those that were there.

        Raises:
            ValueError: `root` holds another request, or other files. Nothing is changed then.
            NotPlainError: a link, pipe, device or socket lies in it. Nothing is changed then either.
        """
        root = Path(root)
        cls._check(root)
        root.mkdir(parents=True, exist_ok=True)
        own = claim(root)
        with own.alone() as alone:
            found, note = cls._found(root, request, alone)
            if found is not None:
                found._check_same(request, alone)
            (root / _CELLS).mkdir(exist_ok=True)
            if found is None or found.request != request:
                inside(root, STUDY).unlink(missing_ok=True)  # of another request's figures
                write_inside(root, _REQUEST, request.to_json().encode())
        store = cls(root, request, note, own)
        if alone:  # before others may use the folder too, one of them may have been alone in it
            cls.read(root)._check_same(request, alone=False)
        remove_leftovers(root)
        remove_leftovers(root / _CELLS)
        return store

    @classmethod
    def _check(cls, root: Path) -> None:
        """Refuse a folder of other files, of links or of a later version, before anything is written there."""
        require_plain(root)
        for name in (_REQUEST, _INDEX, LOCK, RUN, FAILURES):
            inside(root, name)
        require_plain(inside(root, _CELLS, folder=True), folders=False)
        check(root)
        if (root / LOCK).exists():
            return
        try:
            cls.read(root)
        except (FileNotFoundError, EarlierVersionError):
            pass
        except DamagedRequestError:
            if not (root / _CELLS).is_dir():  # somebody else's file
                raise

    @classmethod
    def _found(cls, root: Path, request: Request, alone: bool) -> tuple["Store | None", str]:
        """Return what the folder holds, None where it is free for `request`, and a line about it."""
        try:
            return cls.read(root), ""
        except (FileNotFoundError, EarlierVersionError):
            return None, prepare(root)
        except DamagedRequestError as error:
            digests = {name.removesuffix(SUFFIX) for name, _ in cls(root, request)._names()}
            if not request.shareable and not digests <= request.by_digest.keys():
                raise ValueError(
                    f"{error}; the command that made this run can rebuild it, this one is another"
                ) from None
            return None, f"{error}; it is written anew"
        except ValueError:  # of a class that has changed since
            if alone and next(cls(root, request)._names(), None) is None:
                return None, ""
            raise

    def _check_same(self, request: Request, alone: bool) -> None:
        """Refuse a request for other numbers than those that the folder is for."""
        difference = self.request.difference(request)
        shared = self.request.shareable and request.shareable
        if difference and not shared and not (alone and next(self._names(), None) is None):
            raise ValueError(f"{self.root} holds another request ({difference}); choose another --out")

    @classmethod
    def read(cls, root: Path | str) -> "Store":
        """Open the run folder `root` to read from it.

        Raises:
            FileNotFoundError: `root` is no run folder.
            ValueError: its request cannot be read; `EarlierVersionError` where an earlier version of saplab wrote it,
                `DamagedRequestError` where the file is damaged.
            NotPlainError: its request is a link, or no file.
        """
        root = Path(root)
        path = inside(root, _REQUEST)
        if not path.exists():
            raise FileNotFoundError(2, f"not a run folder, it has no {_REQUEST}", str(root))
        try:
            with no_imports_from(root):  # it may come from elsewhere
                return cls(root, Request.from_json(read_inside(root, _REQUEST)))
        except ValueError as error:
            raise type(error)(f"{path} cannot be read: {error}") from error

    @staticmethod
    def _name(cell: Cell) -> str:
        return f"{_CELLS}/{cell.digest}{SUFFIX}"

    def path(self, cell: Cell) -> Path:
        """Return the file of `cell`, whether it is there or not."""
        return self.root / self._name(cell)

    def save(self, cell: Cell, result: Any) -> None:
        """Write the result of a cell, whole or not at all; several threads may save at a time."""
        path = write_inside(self.root, self._name(cell), encode(cell, result))
        self._broken.discard(cell.digest)
        self._trust([(cell.digest, _stamp_of(path.stat()))])

    def load(self, cell: Cell) -> Any:
        """Read the result of a cell, checked against its checksum.

        Raises:
            FileNotFoundError: it has not been computed.
            BrokenCellError: its file is damaged or holds something else; the next run computes it again.
            NotPlainError: the folder of cells is a link, or no folder.
        """
        inside(self.root, _CELLS, folder=True)
        try:
            return decode(self.path(cell), cell)
        except BrokenCellError:
            self._broken.add(cell.digest)
            self._trust([(cell.digest, _DAMAGED)])
            raise

    def verify(self) -> None:
        """Read every cell once, so that `survey` knows of damage that has left size and time of a file as they were."""
        for cell in self.request.by_digest.values():
            with suppress(FileNotFoundError, BrokenCellError):
                self.load(cell)

    def survey(self) -> Survey:
        """Look at all files: read those that are new or changed since they were found whole, trust the others."""
        wanted, known = self.request.by_digest, self._trusted()
        stored: dict[str, int] = {}
        damaged, foreign, new = self._strange(), [], []
        for name, stamp in self._names():
            digest = name.removesuffix(SUFFIX)
            if digest not in wanted or not name.endswith(SUFFIX):
                foreign.append(f"{self.root / _CELLS / name} does not belong to this run")
                continue
            if stamp == _DAMAGED or known.get(digest) != stamp or digest in self._broken:
                try:
                    self.load(wanted[digest])
                except (BrokenCellError, FileNotFoundError) as error:
                    damaged.append(str(error))
                    continue
                new.append((digest, stamp))
            stored[digest] = stamp[1]
        if new:
            self._trust(new)
        missing = tuple(cell for digest, cell in wanted.items() if digest not in stored)
        return Survey(stored, missing, tuple(damaged), () if self.request.shareable else tuple(foreign))

    def running(self, engine: str) -> AbstractContextManager[None]:
        """Note in the folder that this process computes it, until the context is left."""
        return running(self.root, engine)

    def note_failure(self, failed: Failed) -> None:
        """Append a failure to the folder's list."""
        note_failure(self.root, failed)

    def _names(self) -> Iterator[tuple[str, Stamp]]:
        """Yield name and stamp of all among the cells, but for those that are being written; of no file `_DAMAGED`."""
        with suppress(FileNotFoundError), os.scandir(inside(self.root, _CELLS, folder=True)) as entries:
            for entry in entries:
                if not is_temporary(Path(entry.name)):
                    plain = entry.is_file(follow_symlinks=False)
                    yield entry.name, _stamp_of(entry.stat(follow_symlinks=False)) if plain else _DAMAGED

    def _strange(self) -> list[str]:
        """Return a line where the index is a link, or no file: it is left alone then."""
        try:
            inside(self.root, _INDEX)
        except NotPlainError as error:
            return [f"{error.filename} is damaged: {error.strerror}"]
        return []

    def _trusted(self) -> Mapping[str, Stamp]:
        """Return the stamps of files that were found whole; a lost or torn line of the index costs one more look."""
        found: dict[str, Stamp] = {}
        with suppress(OSError):
            for line in read_inside(self.root, _INDEX).decode("ascii", "replace").splitlines():
                words = line.split()
                if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
                    found[words[0]] = int(words[1]), int(words[2])
        return found

    def _trust(self, stamps: Iterable[tuple[str, Stamp]]) -> None:
        """Append lines to the index; each begins with the end of the one before, which a full disk may have torn."""
        text = "".join(f"\n{digest} {size} {time}" for digest, (size, time) in stamps)
        with suppress(OSError):
            append_inside(self.root, _INDEX, text.encode())


def _stamp_of(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns


Results = Memory | Store

"""A run folder: ``request.json`` and one atomic file a cell, so that a killed run goes on where it stopped."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from saplab.files import is_temporary, remove_leftovers, write_atomically
from saplab.runs.request import Request
from saplab.studies import Cell

_PREDICTIONS = {"probs": np.float32, "votes": np.int32, "half": np.float32, "single": np.float32}
_PER_IMAGE = {"labels": np.int64, "examples": np.int64, "half_cosine": np.float32, "gradient_norm": np.float32}
DTYPES: Final = {**_PREDICTIONS, **_PER_IMAGE}


class BrokenCellError(ValueError):
    """A cell's file that is damaged, or that holds something else; the run must compute the cell again."""


@dataclass(frozen=True)
class CellResult:
    """What a cell's computation gives: L strengths, N examples, C classes.

    Args:
        probs: float32 (L, N, C), mean probabilities over the passes.
        votes: int32 (L, N, C), how many single passes found each class the likeliest.
        half: float32 (L, N, C), mean probabilities over the first half of the passes: K // 2 of K, at least one.
        single: float32 (L, N, C), probabilities of the first pass.
        labels: int64 (N,).
        examples: int64 (N,), positions of the examples in the data set.
        half_cosine: float32 (N,), cosine between the gradients of the two halves of the attack's samples; NaN where
            the attack has no such thing.
        gradient_norm: float32 (N,), Euclidean norm of the attack's gradient; NaN likewise.
        made: how it was made (versions, threads, platform, seconds, time); decides no number.

    Raises:
        ValueError: for other types or shapes.
    """

    probs: NDArray[np.float32]
    votes: NDArray[np.int32]
    half: NDArray[np.float32]
    single: NDArray[np.float32]
    labels: NDArray[np.int64]
    examples: NDArray[np.int64]
    half_cosine: NDArray[np.float32]
    gradient_norm: NDArray[np.float32]
    made: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, dtype in DTYPES.items():
            if getattr(self, name).dtype != dtype:
                raise ValueError(f"`{name}` must be {np.dtype(dtype)}, got {getattr(self, name).dtype}")
        shape = self.probs.shape
        for name in _PREDICTIONS:
            if len(shape) != 3 or getattr(self, name).shape != shape:
                raise ValueError(
                    f"`probs` and `{name}` must both be (L, N, C), got {shape}, {getattr(self, name).shape}"
                )
        for name in _PER_IMAGE:
            if getattr(self, name).shape != shape[1:2]:
                raise ValueError(f"`{name}` must be {shape[1:2]}, got {getattr(self, name).shape}")

    def other_half(self, passes: int) -> NDArray[np.float32]:
        """Give the mean probabilities over the passes that `half` leaves out; `half` itself for a single pass."""
        first = max(1, passes // 2)
        if passes == first:
            return self.half
        rest = (passes * self.probs - first * self.half) / (passes - first)
        return np.asarray(np.clip(rest, 0.0, 1.0), np.float32)


def join(results: Sequence[CellResult]) -> CellResult:
    """Put the examples of several results together, in order; how each was made is left out."""
    along = {name: 1 if name in _PREDICTIONS else 0 for name in DTYPES}
    parts = {name: np.concatenate([getattr(r, name) for r in results], axis) for name, axis in along.items()}
    return CellResult(**parts, made={})


@dataclass(frozen=True)
class Store:
    """The stored results of one request; get one by `create` or `read`."""

    root: Path
    request: Request

    @classmethod
    def open(cls, root: Path | str, request: Request) -> "Store":
        """Make the run folder `root`, or go on with the one that is there.

        A folder that was asked for something else, but holds no cell yet, is taken over.

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
        if difference := store.request.difference(request):
            if any((root / "cells").glob("*.safetensors")):
                raise ValueError(f"{root} holds another request ({difference}); choose another --out")
            write_atomically(root / "request.json", request.to_json().encode())
            store = cls.read(root)
        remove_leftovers(root)
        remove_leftovers(root / "cells")
        return store

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
        """Write `result` as the file of `cell`, whole or not at all.

        Raises:
            ValueError: if the result has other strengths or another number of examples than the cell.
            OSError: if it cannot be written; for a full disk with advice.
        """
        expected = (len(cell.strengths), cell.stop - cell.start)
        if result.probs.shape[:2] != expected:
            raise ValueError(f"`result` must hold {expected} strengths and examples, got {result.probs.shape[:2]}")
        tensors = {name: np.ascontiguousarray(getattr(result, name)) for name in DTYPES}
        made = json.dumps(dict(result.made), sort_keys=True)
        header = {"request": cell.to_json(), "made": made, "sha256": _checksum(tensors)}
        (self.root / "cells").mkdir(exist_ok=True)
        write_atomically(self.path(cell), save(tensors, metadata=header))

    def load(self, cell: Cell) -> CellResult:
        """Read the result of `cell`, checked against its checksum.

        Raises:
            FileNotFoundError: if the cell has no file.
            BrokenCellError: if the file is damaged or holds something else.
        """
        path = self.path(cell)
        header, tensors = _read(path)
        if header["request"] != cell.to_json():
            raise BrokenCellError(f"{path} holds the result of another cell")
        try:
            return CellResult(**tensors, made=json.loads(header["made"]))
        except (TypeError, ValueError) as error:
            raise BrokenCellError(f"{path} is damaged: {error}") from error

    def has(self, cell: Cell) -> bool:
        """Say whether `cell` has a file, and it is whole and the cell's own."""
        try:
            self.load(cell)
        except (FileNotFoundError, BrokenCellError):
            return False
        return True

    def missing(self) -> tuple[Cell, ...]:
        """Give the cells of the request that still have to be computed, in order."""
        return tuple(cell for cell in self.request.cells if not self.has(cell))

    def problems(self) -> list[str]:
        """Describe the files among the cells that are damaged or do not belong to the request, one line each."""
        return list(self._problems())

    def _problems(self) -> Iterator[str]:
        own = {self.path(cell).name: cell for cell in self.request.cells}
        for path in sorted((self.root / "cells").glob("*")):
            if path.name not in own:
                if not is_temporary(path):
                    yield f"{path} does not belong to this run"
                continue
            try:
                self.load(own[path.name])
            except BrokenCellError as error:
                yield str(error)


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder; choose another --out")
    cells = root / "cells"
    names = [path.name for path in root.glob("*") if path != cells and not is_temporary(path)]
    names += [f"cells/{path.name}" for path in cells.glob("*") if not is_temporary(path)]
    if names:
        raise ValueError(f"{root} holds other files ({', '.join(sorted(names)[:3])}); choose another --out")


def _read(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    if not path.is_file():
        raise FileNotFoundError(2, "this cell has not been computed yet", str(path))
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError) as error:
        raise BrokenCellError(f"{path} is damaged: {error}") from error
    if not {"request", "made", "sha256"} <= header.keys():
        raise BrokenCellError(f"{path} was not written by saplab")
    if header["sha256"] != _checksum(tensors):
        raise BrokenCellError(f"{path} is damaged: its numbers do not match its checksum")
    return header, tensors


def _checksum(tensors: Mapping[str, NDArray[Any]]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        total.update(tensor.tobytes())
    return total.hexdigest()

"""Results of cells, and one cell's result as one file: safetensors, with a header that says what it is."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from saplab.runs.cell import Cell, GameCell, ImageCell

SUFFIX: Final = ".safetensors"
PICTURED: Final = 3  # examples of a run whose images are kept, for people to look at
_PREDICTIONS: Final = {"probs": np.float32, "votes": np.int32, "half": np.float32, "single": np.float32}
_PER_IMAGE: Final = {"labels": np.int64, "examples": np.int64, "half_cosine": np.float32, "gradient_norm": np.float32}


class BrokenCellError(ValueError):
    """A cell's file that is damaged, or that holds something else; the run must compute the cell again."""


class Result:
    """What a cell's computation gives: arrays by the names and types of `dtypes`, and how they were `made`."""

    dtypes: ClassVar[Mapping[str, Any]]

    def __post_init__(self) -> None:
        for name, dtype in self.dtypes.items():
            if getattr(self, name).dtype != dtype:
                raise ValueError(f"`{name}` must be {np.dtype(dtype)}, got {getattr(self, name).dtype}")
        self._check_shapes()

    def _check_shapes(self) -> None: ...


@dataclass(frozen=True)
class ImageResult(Result):
    """The predictions of a cell of images: L radii, N examples, C classes.

    Attributes:
        probs: float32 (L, N, C), mean probabilities over the passes.
        votes: int32 (L, N, C), how many single passes found each class the likeliest.
        half: float32 (L, N, C), mean probabilities over the first half of the passes: K // 2 of K, at least one.
        single: float32 (L, N, C), probabilities of the first pass.
        labels: int64 (N,).
        examples: int64 (N,), positions of the examples in the data set.
        half_cosine: float32 (N,), cosine between the gradients of the two halves of the attack's samples; NaN where
            the attack has no such thing.
        gradient_norm: float32 (N,), Euclidean norm of the attack's gradient; NaN likewise.
        pictures: uint8 (L, P, H, W, K), the images predicted, in K colours, of the first P examples: `PICTURED` in the
            cell that begins the data set, none in others.
        made: versions, threads, platform, seconds, time; decides no number.

    Raises:
        ValueError: for other types or shapes.
    """

    dtypes = {**_PREDICTIONS, **_PER_IMAGE, "pictures": np.uint8}  # noqa: RUF012 - read only

    probs: NDArray[np.float32]
    votes: NDArray[np.int32]
    half: NDArray[np.float32]
    single: NDArray[np.float32]
    labels: NDArray[np.int64]
    examples: NDArray[np.int64]
    half_cosine: NDArray[np.float32]
    gradient_norm: NDArray[np.float32]
    pictures: NDArray[np.uint8]
    made: Mapping[str, Any]

    def _check_shapes(self) -> None:
        shape = self.probs.shape
        for name in _PREDICTIONS:
            if len(shape) != 3 or getattr(self, name).shape != shape:
                raise ValueError(
                    f"`probs` and `{name}` must both be (L, N, C), got {shape}, {getattr(self, name).shape}"
                )
        for name in _PER_IMAGE:
            if getattr(self, name).shape != shape[1:2]:
                raise ValueError(f"`{name}` must be {shape[1:2]}, got {getattr(self, name).shape}")
        if self.pictures.ndim != 5 or len(self.pictures) != shape[0] or self.pictures.shape[1] > shape[1]:
            raise ValueError(f"`pictures` must be (L, P, H, W, K) for {shape[:2]}, got {self.pictures.shape}")

    def check_cell(self, cell: ImageCell) -> None:
        """Refuse a cell that asks for another number of radii or examples.

        Raises:
            ValueError: see above.
        """
        expected = (len(cell.eps), cell.stop - cell.start)
        if self.probs.shape[:2] != expected:
            raise ValueError(f"`result` must hold {expected} radii and examples, got {self.probs.shape[:2]}")

    def other_half(self, passes: int) -> NDArray[np.float32]:
        """Return the mean probabilities over the passes that `half` leaves out; `half` itself for a single pass."""
        first = max(1, passes // 2)
        if passes == first:
            return self.half
        rest = (passes * self.probs - first * self.half) / (passes - first)
        return np.asarray(np.clip(rest, 0.0, 1.0), np.float32)


@dataclass(frozen=True)
class GameResult(Result):
    """The games of a cell, in the order of the episodes.

    Attributes:
        scores: float64 (N,), points as the game counts them.
        steps: int64 (N,), the agent's actions.
        made: as in `ImageResult`.

    Raises:
        ValueError: for other types, no episode, or another number of scores than of steps.
    """

    dtypes = {"scores": np.float64, "steps": np.int64}  # noqa: RUF012 - read only

    scores: NDArray[np.float64]
    steps: NDArray[np.int64]
    made: Mapping[str, Any]

    def _check_shapes(self) -> None:
        if self.scores.ndim != 1 or not len(self.scores) or self.scores.shape != self.steps.shape:
            raise ValueError(f"`scores` and `steps` must be (N,), got {self.scores.shape} and {self.steps.shape}")

    def check_cell(self, cell: GameCell) -> None:
        """Refuse a cell that asks for another number of episodes.

        Raises:
            ValueError: see above.
        """
        if len(self.scores) != cell.stop - cell.start:
            raise ValueError(f"`result` must hold {cell.stop - cell.start} episodes, got {len(self.scores)}")


_RESULTS: Final[Mapping[str, Any]] = {"images": ImageResult, "games": GameResult}  # by the kind of cells


def join(results: Sequence[ImageResult]) -> ImageResult:
    """Put the examples of several results together, in order; how each was made is left out."""
    along = {name: 0 if name in _PER_IMAGE else 1 for name in ImageResult.dtypes}
    parts = {name: np.concatenate([getattr(r, name) for r in results], axis) for name, axis in along.items()}
    return ImageResult(**parts, made={})


def encode(cell: Cell, result: Any) -> bytes:
    """Return the bytes of a cell's file.

    Raises:
        ValueError: the result does not fit the cell.
    """
    result.check_cell(cell)
    tensors = {name: np.ascontiguousarray(getattr(result, name)) for name in result.dtypes}
    made = json.dumps(dict(result.made), sort_keys=True)
    return save(tensors, metadata={"request": cell.to_json(), "made": made, "sha256": _checksum(tensors)})


def decode(path: Path, cell: Cell) -> Any:
    """Read a cell's file, checked against its checksum.

    Raises:
        FileNotFoundError: there is none.
        BrokenCellError: it is damaged or holds something else.
    """
    header, tensors = _read(path)
    if header["request"] != cell.to_json():
        raise BrokenCellError(f"{path} holds the result of another cell")
    try:
        result = _RESULTS[cell.kind](**tensors, made=json.loads(header["made"]))
        result.check_cell(cell)
    except (TypeError, ValueError) as error:
        raise BrokenCellError(f"{path} is damaged: {error}") from error
    return result


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

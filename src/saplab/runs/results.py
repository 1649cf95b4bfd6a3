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

from saplab.runs.cell import Cell
from saplab.system.folder import NotPlainError, inside

SUFFIX: Final = ".safetensors"
PICTURED: Final = 3  # examples of a run whose images are kept, for people to look at


class BrokenCellError(ValueError):
    """A cell's file that is damaged, or that holds something else; the run must compute the cell again."""


class Result:
    """Arrays of the types and dimensions of `layout`; a dimension has one size in all of them."""

    layout: ClassVar[Mapping[str, tuple[Any, str]]]

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, (dtype, dims) in self.layout.items():
            array = getattr(self, name)
            for dim, size in zip(dims, array.shape, strict=False):
                sizes.setdefault(dim, size)
            if array.dtype != dtype or array.shape != tuple(map(sizes.get, dims)):
                wanted = f"{np.dtype(dtype)} ({', '.join(f'{dim}={sizes.get(dim)}' for dim in dims)})"
                raise ValueError(f"`{name}` must be {wanted}, got {array.dtype} {array.shape}")

    def check_cell(self, cell: Cell) -> None:
        """Raise a ValueError where the cell asks for another number of radii, examples or games."""
        sizes = {"L": len(cell.eps), "N": cell.stop - cell.start}
        for name, (_, dims) in self.layout.items():
            shape = getattr(self, name).shape
            wanted = tuple(sizes.get(dim, size) for dim, size in zip(dims, shape, strict=True))
            if shape != wanted:
                raise ValueError(f"`{name}` must be {wanted} for this cell, got {shape}")


@dataclass(frozen=True)
class ImageResult(Result):
    """The predictions of a cell of images: L radii, N examples, C classes.

    Attributes:
        probs: (L, N, C), mean probabilities over the passes.
        votes: (L, N, C), how many single passes found each class the likeliest.
        half: (L, N, C), mean probabilities over the first half of the passes: K // 2 of K, at least one.
        single: (L, N, C), probabilities of the first pass.
        labels: (N,).
        examples: (N,), positions of the examples in the data set.
        half_cosine: (N,), cosine between the gradients of the two halves of the attack's samples; NaN without them.
        gradient_norm: (N,), Euclidean norm of the attack's gradient; NaN without one.
        flat_start: (N,), 1 where the attack's first gradient was flat (see `saplab.attacks.flatness`), 0 where not, NaN
            where the example was wrong already or no gradient was asked for.
        flat_end: (L, N), likewise of the last gradient at each radius.
        pictures: (L, P, H, W, K), the images predicted, in K colours, of the first P examples: `PICTURED` in the cell
            that begins the data set, none in others.
        made: versions, threads, platform, seconds, time; decides no number.
    """

    layout = {  # noqa: RUF012 - read only
        "probs": (np.float32, "LNC"), "votes": (np.int32, "LNC"), "half": (np.float32, "LNC"),
        "single": (np.float32, "LNC"), "labels": (np.int64, "N"), "examples": (np.int64, "N"),
        "half_cosine": (np.float32, "N"), "gradient_norm": (np.float32, "N"),
        "flat_start": (np.float32, "N"), "flat_end": (np.float32, "LN"), "pictures": (np.uint8, "LPHWK"),
    }  # fmt: skip

    probs: NDArray[np.float32]
    votes: NDArray[np.int32]
    half: NDArray[np.float32]
    single: NDArray[np.float32]
    labels: NDArray[np.int64]
    examples: NDArray[np.int64]
    half_cosine: NDArray[np.float32]
    gradient_norm: NDArray[np.float32]
    flat_start: NDArray[np.float32]
    flat_end: NDArray[np.float32]
    pictures: NDArray[np.uint8]
    made: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if (pictured := self.pictures.shape[1]) > len(self.labels):
            raise ValueError(f"`pictures` must be of at most {len(self.labels)} examples, got {pictured}")

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
        scores: (N,), points as the game counts them.
        steps: (N,), the agent's actions.
        made: as in `ImageResult`.
    """

    layout = {"scores": (np.float64, "N"), "steps": (np.int64, "N")}  # noqa: RUF012 - read only

    scores: NDArray[np.float64]
    steps: NDArray[np.int64]
    made: Mapping[str, Any]


_RESULTS: Final[Mapping[str, Any]] = {"images": ImageResult, "games": GameResult}  # by the kind of cells


def join(results: Sequence[ImageResult]) -> ImageResult:
    """Put the examples of several results together, in order; how each was made is left out."""
    along = {name: 0 if dims == "N" else 1 for name, (_, dims) in ImageResult.layout.items()}
    parts = {name: np.concatenate([getattr(r, name) for r in results], axis) for name, axis in along.items()}
    return ImageResult(**parts, made={})


def encode(cell: Cell, result: Any) -> bytes:
    """Return the bytes of a cell's file, or raise a ValueError where the result does not fit the cell."""
    result.check_cell(cell)
    tensors = {name: np.ascontiguousarray(getattr(result, name)) for name in result.layout}
    made = json.dumps(dict(result.made), sort_keys=True)
    return save(tensors, metadata={"request": cell.to_json(), "made": made, "sha256": _checksum(tensors)})


def decode(path: Path, cell: Cell) -> Any:
    """Read a cell's file, checked against its checksum; errors as in `Store.load`."""
    try:
        if not inside(path.parent, path.name).exists():
            raise FileNotFoundError(2, "this cell has not been computed yet", str(path))
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if not {"request", "made", "sha256"} <= header.keys():
            raise BrokenCellError(f"{path} was not written by saplab")
        if header["sha256"] != _checksum(tensors):
            raise BrokenCellError(f"{path} is damaged: its numbers do not match its checksum")
        if header["request"] != cell.to_json():
            raise BrokenCellError(f"{path} holds the result of another cell")
        result = _RESULTS[cell.kind](**tensors, made=json.loads(header["made"]))
        result.check_cell(cell)
    except BrokenCellError:
        raise
    except NotPlainError as error:
        raise BrokenCellError(f"{path} is damaged: {error.strerror}") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise BrokenCellError(f"{path} is damaged: {error}") from error
    return result


def _checksum(tensors: Mapping[str, NDArray[Any]]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        total.update(tensor.tobytes())
    return total.hexdigest()

"""CIFAR-10 in its binary or python layout, checked file by file.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009. In some copies of the data set, 93
images (73 for training, 20 for testing) were once compressed as JPEG. They are left out by default, so that accuracies
agree between copies: the test split then has 9,980 images.
"""

import io
import json
import pickle
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from saplab.data.dataset import Records

Split = Literal["sample", "test", "train"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
RECORDS_PER_FILE = 10_000
_PIXELS = 3 * 32 * 32
_FILES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}


def load_cifar10(
    split: Split = "sample", root: str | Path | None = None, exact: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load images, float32 (N, 3, 32, 32) in [0, 1], and their labels, int64 (N,).

    Args:
        split: ``sample``, 1,000 test images in the package, 100 of each class; ``test``; or ``train``.
        root: the folder with ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, or one of these folders.
        exact: leave out the images that differ between copies of the data set.

    Raises ValueError for an unknown split, no `root` where one is needed, or a malformed file.
    """
    records = read_records(split, root, exact)
    return as_images(records.images), torch.from_numpy(records.labels)


def as_images(pixels: np.ndarray) -> torch.Tensor:
    """Return uint8 pixels of any shape as float32 in [0, 1]: k becomes k/255, rounded once."""
    return torch.from_numpy(pixels).float().div_(255)


def read_records(split: Split, root: str | Path | None = None, exact: bool = True) -> Records:
    """Read a split as bytes; arguments and errors as in `load_cifar10`."""
    if split == "sample":
        from saplab.data.sample import read_sample

        return read_sample()
    if split not in _FILES:
        raise ValueError(f"`split` must be 'sample', 'test' or 'train', got {split!r}")
    if root is None:
        raise ValueError(f"`root` must name the folder that holds CIFAR-10 for split {split!r}, got None")
    images, labels = _read_split(Path(root), split)
    whole = Records(images, labels, np.arange(len(labels), dtype=np.int64), CLASSES)
    return whole.chosen(np.isin(whole.indices, inexact_indices(split), invert=True)) if exact else whole


@cache
def inexact_indices(split: str) -> tuple[int, ...]:
    """Return the positions in the split of the images that differ between copies of the data set."""
    text = resources.files("saplab.data").joinpath("cifar10_inexact.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)[split])


def _read_split(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a whole split, uint8 (N, 3, 32, 32) and int64 (N,), from the layout that is there."""
    folder, suffix, read = _find_layout(root)
    parts = [read(_existing(folder / f"{name}{suffix}")) for name in _FILES[split]]
    images = np.concatenate([images for images, _ in parts]).reshape(-1, *SHAPE)
    return images, np.concatenate([labels for _, labels in parts])


def _find_layout(root: Path) -> tuple[Path, str, Callable[[Path], tuple[np.ndarray, np.ndarray]]]:
    """Return the folder with the files, the suffix of their names, and the function that reads one."""
    layouts = (("cifar-10-batches-bin", ".bin", _read_binary), ("cifar-10-batches-py", "", _read_python))
    for name, suffix, read in layouts:
        for folder in (root / name, root):
            if (folder / f"test_batch{suffix}").is_file() or (folder / f"data_batch_1{suffix}").is_file():
                return folder, suffix, read
    raise FileNotFoundError(
        f"no CIFAR-10 in {root}: expected cifar-10-batches-bin/test_batch.bin or cifar-10-batches-py/test_batch there"
    )


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one file of the binary layout: records of a label byte and 3,072 pixels, channel by channel."""
    expected = RECORDS_PER_FILE * (1 + _PIXELS)
    size = path.stat().st_size
    if size != expected:
        raise ValueError(f"{path} must hold {expected} bytes ({RECORDS_PER_FILE} records of {1 + _PIXELS}), got {size}")
    records = np.fromfile(path, dtype=np.uint8).reshape(RECORDS_PER_FILE, 1 + _PIXELS)
    return records[:, 1:], _checked_labels(path, records[:, 0])


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one file of the python layout: a pickled dictionary with ``data`` and ``labels``."""
    batch = _unpickle(path)
    if not isinstance(batch, dict) or b"data" not in batch or b"labels" not in batch:
        raise ValueError(f"{path} must hold a dictionary with data and labels")
    images = batch[b"data"]
    expected = (RECORDS_PER_FILE, _PIXELS)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != expected:
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{path} must hold data of uint8 {expected}, got {got}")
    return images, _checked_labels(path, batch[b"labels"])


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: CIFAR-10 keeps {RECORDS_PER_FILE} images there")
    return path


def _checked_labels(path: Path, labels: Any) -> np.ndarray:
    array = np.asarray(labels)
    if array.shape != (RECORDS_PER_FILE,) or array.dtype.kind not in "ui":
        raise ValueError(f"{path} must hold {RECORDS_PER_FILE} whole-number labels, got {array.dtype} {array.shape}")
    if array.min() < 0 or array.max() >= len(CLASSES):
        raise ValueError(f"{path} must hold labels in 0..9, got {array.min()}..{array.max()}")
    return array.astype(np.int64)


def _unpickle(path: Path) -> Any:
    try:
        return _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except _ForbiddenClass as error:
        raise ValueError(f"{path} is refused: it asks for {error}, which no CIFAR-10 file needs") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} is not a readable pickle: {type(error).__name__}: {error}") from None


class _ForbiddenClass(Exception):
    """The pickle asks for something that arrays, bytes, lists and dictionaries do not need."""


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler for NumPy arrays of plain numbers and Python's own containers, which calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what rebuilds arrays and bytes; any other name is refused before it is imported."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise _ForbiddenClass(f"{module}.{name}")


def _reconstruct(kind: type, shape: tuple[int, ...], _dtype: bytes) -> np.ndarray:
    """Return the empty array that the pickle's state then fills."""
    if kind is not np.ndarray or shape != (0,):
        raise ValueError(f"an array must begin as an empty ndarray, got {kind} {shape}")
    return np.empty(0, dtype=np.int8)


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes as Python 3 writes them in old pickle protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes must be written as latin1, got {encoding!r}")
    return text.encode("latin1")

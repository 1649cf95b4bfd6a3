"""The user's own images from a NumPy archive (``.npz``)."""

import zipfile
from pathlib import Path

import numpy as np
import torch

from saplab.data.dataset import Dataset
from saplab.system.memory import physical_memory
from saplab.system.words import readable

_CHANNELS = (1, 3)
_MOST_CLASSES = 1 << 20  # without names; ImageNet's largest set has 21,843


def load_npz(path: str | Path) -> Dataset:
    """Load images and labels from a NumPy archive.

    The archive holds ``images``, (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, uint8 or floating point in [0, 1];
    ``labels``, integers (N,) from 0; and optionally ``classes``, their names as strings.

    Raises ValueError if the file is not such an archive; the message names file, array and fault.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a NumPy archive with images and labels")
    arrays = _read(path)
    images = _checked_images(path, arrays["images"])
    classes = _checked_classes(path, arrays.get("classes"))
    labels = _checked_labels(path, arrays["labels"], len(images), classes)
    names = classes or tuple(str(label) for label in range(int(labels.max()) + 1))
    return Dataset(readable(path.name), images, torch.from_numpy(labels), torch.arange(len(labels)), names)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _require_memory(archive.zip)
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive can raise nearly anything
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no readable NumPy archive of plain numbers: {reason}") from None
    for name in ("images", "labels"):
        if name not in arrays:
            raise ValueError(f"{path} must hold `{name}`, got {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays


def _require_memory(archive: zipfile.ZipFile) -> None:
    """Refuse what the machine cannot hold, as bytes and as float32, before it is unpacked."""
    need, have = 5 * sum(info.file_size for info in archive.infolist()), physical_memory()
    if have is not None and need > have:
        raise ValueError(f"it needs {need / 2**30:.0f} GiB, and the machine has {have / 2**30:.0f}")


def _checked_images(path: Path, images: np.ndarray) -> torch.Tensor:
    images = _channels_first(path, images)
    if images.size == 0:
        raise ValueError(f"{path}: `images` must hold at least one image, got shape {images.shape}")
    if images.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(images)).float().div_(255)
    if images.dtype.kind != "f":
        raise ValueError(f"{path}: `images` must be uint8 or floating point, got {images.dtype}")
    if not np.isfinite(images).all():
        raise ValueError(f"{path}: `images` must be finite, got NaN or infinity")
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"{path}: `images` must lie in [0, 1], got {images.min():g} .. {images.max():g}")
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))


def _channels_first(path: Path, images: np.ndarray) -> np.ndarray:
    """Return (N, C, H, W), where C is the axis, second or last, with 1 or 3 entries."""
    if images.ndim != 4:
        raise ValueError(f"{path}: `images` must be (N, C, H, W) or (N, H, W, C), got shape {images.shape}")
    first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
    if first == last:
        raise ValueError(
            f"{path}: `images` must have 1 or 3 channels in either the second or the last axis, got {images.shape}"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def _checked_classes(path: Path, classes: np.ndarray | None) -> tuple[str, ...]:
    if classes is None:
        return ()
    if classes.ndim != 1 or classes.dtype.kind != "U" or not len(classes):
        raise ValueError(f"{path}: `classes` must be a list of strings, got {classes.dtype} {classes.shape}")
    return tuple(str(name) for name in classes)


def _checked_labels(path: Path, labels: np.ndarray, count: int, classes: tuple[str, ...]) -> np.ndarray:
    if labels.dtype.kind not in "ui":
        raise ValueError(f"{path}: `labels` must be whole numbers, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(f"{path}: `labels` must have one entry for each of the {count} images, got {labels.shape}")
    limit = len(classes) or _MOST_CLASSES
    if labels.min() < 0 or labels.max() >= limit:
        raise ValueError(f"{path}: `labels` must lie in 0 .. {limit - 1}, got {labels.min()} .. {labels.max()}")
    return labels.astype(np.int64)

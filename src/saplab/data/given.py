"""Images and labels as callers have them: tensors or arrays, of any type that can be meant."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[Any]


def given_images(images: Array) -> Tensor:
    """Return images as a tensor without a graph; ValueError for whole numbers, whose white is not known."""
    tensor = _tensor("images", images).detach()
    if not tensor.is_floating_point():
        raise ValueError(
            f"`images` must be floating point in [0, 1], got {tensor.dtype}; write images / 255 for pixels"
        )
    return tensor


def given_labels(labels: Array | Sequence[int], count: int, name: str = "labels") -> Tensor:
    """Return labels as int64 (N,), of whatever integer type they are."""
    tensor = _tensor(name, labels)
    kind = tensor.dtype
    if tensor.shape != (count,) or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        wanted = f"`{name}` must be {count} integers, one for each image, got {kind} of shape {tuple(tensor.shape)}"
        raise ValueError(wanted + _instead(tensor, name, count))
    return tensor.long()


def _instead(labels: Tensor, name: str, count: int) -> str:
    """Return what to write in the place of labels that could be meant: one-hot rows, columns, floats."""
    if labels.ndim == 2 and len(labels) == count:
        return (
            f"; write {name}.argmax(1) where the rows are one-hot" if labels.shape[1] > 1 else f"; write {name}[:, 0]"
        )
    if labels.shape == (1,) and count in (1, 3):
        return "; write images[None] for a single image"
    if labels.shape == (count,) and labels.is_floating_point() and bool((labels == labels.round()).all()):
        return f"; write {name}.long()"
    return ""


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    loading = sys.modules.get("torch.utils.data")  # which somebody who has a loader has imported
    if loading is not None and isinstance(value, loading.DataLoader | loading.Dataset):
        loader = "loader" if isinstance(value, loading.DataLoader) else "DataLoader(data, 500)"
        how = f"images, labels = map(torch.cat, zip(*{loader}))"
        raise TypeError(f"`{name}` must be a tensor or an array, got a {type(value).__name__}; write {how} first")
    if isinstance(value, torch.nn.Module | str):
        raise TypeError(f"`{name}` must be a tensor or an array of numbers, got {type(value).__name__}")
    if isinstance(value, Sequence) and value and isinstance(value[0], str):
        raise ValueError(f"`{name}` must be the classes' numbers, got text such as {value[0]!r}")
    try:
        array = np.array(value)  # a copy: torch takes no array that is read-only or runs backwards
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be a tensor or an array of numbers, got {type(value).__name__}: {error}"
        ) from None

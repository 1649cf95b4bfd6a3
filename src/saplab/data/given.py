"""Images and labels as callers have them: tensors or arrays, of any type that can be meant."""

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
        raise ValueError(f"`images` must be floating point, such as uint8 pixels / 255, got {tensor.dtype}")
    return tensor


def given_labels(labels: Array | Sequence[int], count: int, name: str = "labels") -> Tensor:
    """Return labels as int64 (N,), of whatever integer type they are."""
    tensor = _tensor(name, labels)
    kind = tensor.dtype
    if tensor.shape != (count,) or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise ValueError(f"`{name}` must be {count} integers, got {kind} of shape {tuple(tensor.shape)}")
    return tensor.long()


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        array = np.array(value)  # a copy: torch takes no array that is read-only or runs backwards
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be a tensor or an array of numbers, got {type(value).__name__}: {error}"
        ) from None

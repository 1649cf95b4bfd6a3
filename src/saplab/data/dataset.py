"""Labelled images in memory, and where they came from."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Records:
    """Images as bytes, for training.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        indices: int64 (N,), each image's position in the data set.
        classes: names of the classes in the order of the labels; empty where unknown.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, which: slice | np.ndarray) -> "Records":
        """Return the chosen images."""
        return Records(self.images[which], self.labels[which], self.indices[which], self.classes)


@dataclass(frozen=True)
class Dataset:
    """Images as numbers, for evaluation.

    Attributes:
        name: what reports call the data.
        images: float32 (N, C, H, W) in [0, 1].
        labels: int64 (N,), each in ``0 .. len(classes) - 1``.
        indices: int64 (N,), each image's position in the data set.
        classes: names of the classes in the order of the labels.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def as_records(self) -> Records:
        """Return the images as bytes, each value rounded to k/255, with three channels: a grey one is repeated."""
        pixels = (self.images * 255).round().to(torch.uint8).numpy()
        colours = pixels.repeat(3, axis=1) if pixels.shape[1] == 1 else pixels
        return Records(colours, self.labels.numpy(), self.indices.numpy(), self.classes)

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of the images and the labels with their types and shapes."""
        return digest(self.images.numpy(), self.labels.numpy())


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the arrays' types, shapes and values (little-endian)."""
    sha = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        sha.update(f"{little.dtype.str}{little.shape}".encode())
        sha.update(little.data)
    return sha.hexdigest()

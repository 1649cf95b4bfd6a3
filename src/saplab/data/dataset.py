"""Labelled images in memory, and where they came from."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Records:
    """Images as bytes, for training."""

    images: np.ndarray  # uint8 (N, C, H, W)
    labels: np.ndarray  # int64 (N,)
    indices: np.ndarray  # int64 (N,), each image's position in the data set
    classes: tuple[str, ...] = ()  # names in the order of the labels; empty where unknown
    note: str = ""  # what of a folder of pictures was left out or changed

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, which: slice | np.ndarray) -> "Records":
        """Return the chosen images."""
        return Records(self.images[which], self.labels[which], self.indices[which], self.classes, self.note)


@dataclass(frozen=True)
class Dataset:
    """Images as numbers, for evaluation."""

    name: str  # what reports call the data
    images: torch.Tensor  # float32 (N, C, H, W) in [0, 1]
    labels: torch.Tensor  # int64 (N,), each in 0 .. len(classes) - 1
    indices: torch.Tensor  # int64 (N,), each image's position in the data set
    classes: tuple[str, ...]  # names in the order of the labels
    note: str = ""  # what of a folder of pictures was left out or changed

    def __len__(self) -> int:
        return len(self.labels)

    def as_records(self) -> Records:
        """Return the images as bytes, each value rounded to k/255, with three channels: a grey one is repeated."""
        pixels = (self.images * 255).round().to(torch.uint8).numpy()
        colours = pixels.repeat(3, axis=1) if pixels.shape[1] == 1 else pixels
        return Records(colours, self.labels.numpy(), self.indices.numpy(), self.classes, self.note)

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of the images and the labels with their types and shapes."""
        return digest(self.images.numpy(), self.labels.numpy(), self.indices.numpy())


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the arrays' types, shapes and values (little-endian)."""
    sha = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        sha.update(f"{little.dtype.str}{little.shape}".encode())
        sha.update(little.data)
    return sha.hexdigest()

"""Data by name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from saplab.data.cifar10 import CLASSES, Split, as_images, read_records
from saplab.data.classes import matched
from saplab.data.dataset import Dataset, Records
from saplab.data.images import Cut, load_folder
from saplab.data.npz import load_npz
from saplab.system.files import at_home


def has_a_size(spec: str) -> bool:
    """Return whether data of that name are images already, and no folder of pictures that are cut."""
    return spec == "sample" or spec.startswith("cifar10:") or spec.endswith(".npz")


def load_data(spec: str, cut: Cut | None = None, limit: int | None = None) -> Dataset:
    """Load data by name.

    Args:
        spec: ``sample``, the 1,000 CIFAR-10 test images in the package; ``cifar10:DIR``, CIFAR-10's test split without
            the 20 images that differ between copies; the path of an ``.npz`` file; or that of a folder with a subfolder
            of pictures for each class.
        cut: how the pictures of a folder become images; other data have a size of their own.
        limit: read at most that many pictures of a folder.
    """
    if spec == "sample":
        return _cifar10("CIFAR-10 test sample", "sample", None)
    if spec.startswith("cifar10:"):
        return _cifar10("CIFAR-10 test", "test", cifar10_root(spec))
    if spec.endswith(".npz"):
        return load_npz(_expanded(spec))
    if spec and _expanded(spec).is_dir():
        if cut is None:
            raise ValueError(
                f"`image-size` must be given for the folder of pictures {spec}: this network names no size"
            )
        return load_folder(_expanded(spec), cut, limit)
    raise ValueError(f"`data` must be 'sample', 'cifar10:DIR', a path that ends in .npz or a folder, got {spec!r}")


def positions(images: torch.Tensor) -> torch.Tensor:
    """Number float32 images (N, ...) on the CPU from 0; those of the packaged sample as in CIFAR-10's test set."""
    sample = load_data("sample")
    if images.shape[1:] == sample.images.shape[1:]:
        places = {image.numpy().tobytes(): number for image, number in zip(sample.images, sample.indices, strict=True)}
        found = [places.get(image.numpy().tobytes()) for image in images]
        if all(number is not None for number in found):
            return torch.stack(cast(list[torch.Tensor], found))
    return torch.arange(len(images))


def load_records(
    spec: str, split: Split = "train", cut: Cut | None = None, names: Sequence[str] = ()
) -> Records:  # fmt: skip
    """Load data by name as bytes, for training; as `load_data`, but with the splits of ``cifar10:DIR``.

    Labels are those of the classes' `names`, where some are given; see `matched`.
    """
    if spec.startswith("cifar10:"):
        return read_records(split, cifar10_root(spec))
    if spec == "sample" and split == "train":
        raise ValueError("`data` must not be 'sample' for training: its images are test images")
    data, words = matched(load_data(spec, cut), names, listed=False)
    records = data.as_records()
    return replace(records, note="; ".join(filter(None, (records.note, words))))


def cifar10_root(spec: str) -> Path:
    """Return DIR of ``cifar10:DIR``; any other text is an error."""
    kind, _, root = spec.partition(":")
    if kind != "cifar10" or not root:
        raise ValueError(f"`data` must be 'cifar10:DIR', got {spec!r}")
    return _expanded(root)


def _expanded(path: str) -> Path:
    return at_home("data", path)


def _cifar10(name: str, split: Split, root: Path | None) -> Dataset:
    records = read_records(split, root)
    labels, indices = torch.from_numpy(records.labels), torch.from_numpy(records.indices)
    return Dataset(name, as_images(records.images), labels, indices, CLASSES)

"""1,000 CIFAR-10 test images inside the package: 100 of each class, spread evenly over the test split.

``python -m saplab.data.sample ROOT`` makes the file again from the whole data set.
"""

from importlib import resources
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from saplab.data.cifar10 import CLASSES, read_records
from saplab.data.dataset import Records

PER_CLASS = 100
FILE = "cifar10.safetensors"


def read_sample() -> Records:
    """Read the packaged images, their labels and their positions in the test split."""
    arrays = load(resources.files("saplab.data.sample").joinpath(FILE).read_bytes())
    return Records(arrays["images"], arrays["labels"], arrays["indices"], CLASSES)


def choose(labels: np.ndarray, per_class: int = PER_CLASS) -> np.ndarray:
    """Choose examples of each class, evenly spaced among the class's own: labels (N,) -> sorted positions."""
    chosen = []
    for label in range(len(CLASSES)):
        of_class = np.flatnonzero(labels == label)
        if len(of_class) < per_class:
            raise ValueError(f"`labels` must hold {per_class} of class {label}, got {len(of_class)}")
        middles = (2 * np.arange(per_class) + 1) * len(of_class) // (2 * per_class)
        chosen.append(of_class[middles])
    return np.sort(np.concatenate(chosen))


def make_sample(root: str | Path) -> Records:
    """Take the sample from the test split, without the images that differ between copies of the data set."""
    test = read_records("test", root, exact=True)
    return test.chosen(choose(test.labels))


def write_sample(root: str | Path, path: Path) -> None:
    """Make the sample and write it to ``path``."""
    sample = make_sample(root)
    arrays = {"images": sample.images, "labels": sample.labels, "indices": sample.indices}
    path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))

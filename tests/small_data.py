"""The packaged sample in the place of CIFAR-10, and recipes of seconds, for the tests of commands that train."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saplab.data import cifar10
from saplab.data.sample import read_sample
from saplab.training.recipes import RECIPES, Recipe
from saplab.training.schedules import WarmupLinear

TINY = Recipe("dense", "tiny", epochs=2, batch=32, schedule=WarmupLinear(0.05, 1), precision="bfloat16", images=64)


def make_small_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write 5 x 20 training images and 20 test images, and let the smoke presets of two recipes suit them."""
    monkeypatch.setattr(cifar10, "RECORDS_PER_FILE", 20)
    for name in ("dense", "dropout"):
        changed = replace(TINY, name=name, preset="smoke", defenses=RECIPES[name, "smoke"].defenses)
        monkeypatch.setitem(RECIPES, (name, "smoke"), changed)
    files = folder / "cifar-10-batches-bin"
    files.mkdir()
    data = read_sample()
    rows = np.column_stack([data.labels.astype(np.uint8), data.images.reshape(len(data), -1)])
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows[20 * number : 20 * (number + 1)].tofile(files / f"{name}.bin")
    return folder

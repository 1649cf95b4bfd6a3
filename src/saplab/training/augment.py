"""Draws of shuffles, crops and flips: a function of (seed, epoch, image) and of nothing else.

The draws are raw words of the counter-based generator Philox (Salmon et al. 2011): one stream for each purpose and
epoch, in which word i belongs to image i. They depend on no batch size, no thread and nothing that ran before, so that
a resumed run makes the same draws as an uninterrupted one.
"""

from dataclasses import dataclass

import numpy as np

_SHUFFLE, _SHIFT, _HELD_OUT = 1, 2, 3


@dataclass(frozen=True)
class Shifts:
    """Where each image's crop begins in the padded image, and whether the crop is mirrored; all three (N,)."""

    rows: np.ndarray
    columns: np.ndarray
    mirrored: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Shifts":
        return Shifts(self.rows[chosen], self.columns[chosen], self.mirrored[chosen])


def shuffle(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return a permutation of ``0 .. count - 1``, each equally likely but for ties of 64-bit words."""
    return np.argsort(_words(seed, _SHUFFLE, epoch, count), kind="stable")


def held_out_positions(count: int, held_out: int) -> np.ndarray:
    """Choose ``held_out`` of ``count`` positions, all equally likely; the same ones for every seed of a run."""
    return np.argsort(_words(0, _HELD_OUT, 0, count), kind="stable")[:held_out]


def draw_shifts(seed: int, epoch: int, count: int, pad: int, flip: bool) -> Shifts:
    """Draw each image's crop, uniform over the ``2 * pad + 1`` offsets in both directions, and its flip."""
    words = _words(seed, _SHIFT, epoch, count)
    offsets = np.uint64(2 * pad + 1)
    rows = _scaled(words & np.uint64(0xFFFFFF), offsets)
    columns = _scaled((words >> np.uint64(24)) & np.uint64(0xFFFFFF), offsets)
    return Shifts(rows, columns, (words >> np.uint64(63) == 1) & flip)


def _words(seed: int, purpose: int, epoch: int, count: int) -> np.ndarray:
    key = np.array([seed, (purpose << 32) | epoch], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def _scaled(bits: np.ndarray, count: np.uint64) -> np.ndarray:
    """Turn 24 uniform bits into a whole number below ``count``, uniform up to count / 2**24."""
    return ((bits * count) >> np.uint64(24)).astype(np.int64)

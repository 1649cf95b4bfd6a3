"""Matrices turned over, by tiles and beyond them, against NumPy."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from saplab.rng.tiles import NO_FLOOR, transpose

OTHER_WIDTH = """
import numpy as np
from saplab.rng.tiles import NO_FLOOR, transpose
x = np.arange(33 * 50, dtype=np.float32).reshape(33, 50)
out = np.empty((50, 33), np.float32)
transpose(x, out, NO_FLOOR)
assert np.array_equal(out, x.T)
"""


def bits_of(values: np.ndarray) -> np.ndarray:
    """Return the bits (uint16) of the bfloat16 numbers nearest to float32 ones, as PyTorch rounds them."""
    return torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("shape", [(16, 16), (32, 48), (1, 1), (15, 17), (16, 7), (49, 64), (3, 100), (0, 4)])
@pytest.mark.parametrize("floor", [NO_FLOOR, np.float32(0)])
def test_every_entry_goes_where_it_belongs(shape, floor):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    out = np.full(shape[::-1], 9.0, np.float32)
    transpose(x, out, floor)
    assert np.array_equal(out, np.maximum(x, floor).T)


@pytest.mark.parametrize("shape", [(16, 16), (21, 35)])
def test_bfloat16_is_read_and_written_to_the_nearest(shape):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x[0, 0], x[1, 1], x[2, 2] = 1 + 2**-8, 1 + 3 * 2**-8, -np.inf  # two ties, and no number
    halves = np.empty(shape[::-1], np.uint16)
    transpose(x, halves, NO_FLOOR)
    assert np.array_equal(halves, bits_of(x).T)
    back = np.empty(shape, np.float32)
    transpose(halves, back, np.float32(0))
    assert np.array_equal(back, np.maximum(torch.from_numpy(x).bfloat16().float().numpy(), 0))


def test_nan_stays_and_so_does_the_sign_of_zero():
    x = np.zeros((16, 16), np.float32)
    x[3, 4], x[5, 6] = np.nan, -0.0
    out = np.empty_like(x)
    transpose(x, out, np.float32(0))
    assert np.isnan(out[4, 3])
    assert np.isnan(out).sum() == 1
    assert np.signbit(out[6, 5])
    assert np.signbit(out).sum() == 1


def test_a_processor_with_narrower_registers_does_the_same(tmp_path):
    narrow = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", OTHER_WIDTH], env={**os.environ, **narrow}, check=True)

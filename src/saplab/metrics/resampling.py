"""The bootstrap over images (Efron 1979), from counter-based random numbers."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def resamples(images: int, replicates: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield, for each replicate, how often each image is in a sample of N images with replacement: (N,).

    Replicate b is a function of (seed, b, N) alone: Philox4x64-10 at the counter b, under a key for this purpose.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"`seed` must be an integer >= 0, got {seed!r}")
    if replicates < 2:
        raise ValueError(f"`replicates` must be >= 2, got {replicates}")
    key = np.frombuffer(hashlib.sha256(f"saplab/bootstrap/{seed}".encode()).digest()[:16], np.uint64)
    for replicate in range(replicates):
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, replicate]))
        yield np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float64)

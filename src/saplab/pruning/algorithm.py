"""Algorithm 1 of Dhillon et al. (2018) line by line as printed: slow and plain, an oracle for the kernels."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def probabilities(h: Floats) -> Floats:
    """Normalise one activation map `h` (a,) on to the simplex (line 5): p_j = |h_j| / sum_k |h_k|."""
    mass: float = np.sum(np.abs(h))
    return np.abs(h) / mass


def inclusion(p: Floats, draws: int) -> Floats:
    """Return 1 - (1 - p_j)^r, the probability that index j is drawn at least once in r = `draws` draws."""
    with np.errstate(divide="ignore"):
        kept: Floats = -np.expm1(draws * np.log1p(-p))
    return kept


def prune(h: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Prune one activation map `h` (a,) with r = `draws` categorical draws, with replacement.

    A map of zeros has no distribution; its output is zeros. Raises ValueError for NaN or infinity.
    """
    if not np.all(np.isfinite(h)):
        raise ValueError("`h` must be finite, got NaN or infinity")
    if not np.any(h):
        return np.zeros_like(h)
    p = probabilities(h)
    kept: set[int] = set()  # line 6
    for _ in range(draws):  # line 7
        s = int(generator.choice(len(h), p=p))  # line 8
        kept.add(s)  # line 9
    pruned = np.zeros_like(h)  # lines 10, 11
    for j in kept:  # line 12
        pruned[j] = h[j] / inclusion(p[j : j + 1], draws)[0]  # line 13
    return pruned

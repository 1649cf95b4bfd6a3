"""The weights of a mixture that leave most where an attacker may choose a point for each image."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDING: Final = 1e-9  # of the solver


def best_weights(right: ArrayLike) -> tuple[float, NDArray[np.float64]]:
    """Return the largest mean over images of min_a Σ_m w_m·right[m, a], and the weights w that reach it.

    The game of section 3 of Pinot et al. 2020, "Randomization matters", restricted to some networks and some points, by
    linear programming: maximise the mean of t_i with t_i <= Σ_m w_m·right[m, a, i] for every a, w >= 0 and Σw = 1. The
    attacker knows the weights and not the draw, as in `saplab.game_value`, but need not play one attack for all images.

    Args:
        right: (M, A, N) score in [0, 1] of network m on the a-th point of image i: 1 where it is right.

    Raises:
        ValueError: another shape, or scores outside [0, 1].

    Examples:
        >>> best_weights([[[0.0], [1.0]], [[1.0], [0.0]]])  # each network is fooled by a point of its own
        (0.5, array([0.5, 0.5]))
    """
    scores = np.asarray(right, np.float64)
    if scores.ndim != 3 or scores.size == 0:
        raise ValueError(f"`right` must have the shape (M, A, N), got {scores.shape}")
    if not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"`right` must be in [0, 1], got {scores.min()} to {scores.max()}")
    nets, points, images = scores.shape
    kinds, counts = np.unique(scores.reshape(-1, images), axis=1, return_counts=True)
    weights = _solved(kinds.reshape(nets, points, -1), counts / images)
    return worst_of(scores, weights).mean().item(), weights


def worst_of(right: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Return what a mixture is expected to leave of each image at its worst point: min_a Σ_m w_m·right[m, a], (N,)."""
    expected = np.einsum("m,man->an", np.asarray(weights), np.asarray(right, np.float64))
    return np.asarray(expected.min(axis=0).clip(0.0, 1.0))  # weights add up to 1 but for rounding


def _solved(kinds: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights, of images that are equal counted once: (M, A, K), with their shares (K,)."""
    from scipy.optimize import linprog  # slow to import
    from scipy.sparse import csr_array, hstack, identity, vstack

    nets, points, count = kinds.shape
    below = vstack([hstack([csr_array(-kinds[:, a].T), identity(count)]) for a in range(points)]).tocsr()
    whole = np.append(np.ones(nets), np.zeros(count))[None]
    bounds = [(0.0, 1.0)] * nets + [(None, 1.0)] * count
    found = linprog(
        np.append(np.zeros(nets), -shares), A_ub=below, b_ub=np.zeros(below.shape[0]), A_eq=whole, b_eq=[1.0],
        bounds=bounds, method="highs",
    )  # fmt: skip
    if not found.success:
        raise RuntimeError(f"the linear programme was not solved: {found.message}")
    weights = np.where(found.x[:nets] < _ROUNDING, 0.0, found.x[:nets])
    return np.asarray(weights / weights.sum())

"""The worst of several attacks on each image, without bias from the luck of a stochastic defence."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.metrics.accuracy import class_labels


def worst_case(halves: ArrayLike, strengths: Sequence[float], labels: ArrayLike) -> NDArray[np.float64]:
    """Score each image under the worst of A attacks at each strength, by cross-fitting.

    The minimum over A freshly drawn predictions is biased low: with each attack, a borderline image has another chance
    to fail. So one half of the passes chooses the attack with the smallest margin, the other half says whether the
    image is right under it, and vice versa. This estimates without bias the accuracy left by an attacker who tries all
    attacks against K/2 passes of his own and plays the best one. Networks without randomness have equal halves, and
    get the plain minimum.

    Balls are nested: an attack with a smaller strength is one with a larger strength too.

    `halves` holds mean probabilities over the first and over the second half of the passes (2, A, L, N, C), `strengths`
    the λ of each of the L rows. The scores (L, N) are 0, 0.5 or 1, the mean of both ways.
    """
    probs = np.asarray(halves)
    if probs.ndim != 5 or len(probs) != 2 or probs.size == 0 or probs.shape[2] != len(strengths):
        raise ValueError(f"`halves` must have the shape (2, A, {len(strengths)}, N, C), got {probs.shape}")
    margin = margins(probs, labels)
    weaker = np.asarray(strengths)
    rows = [margin[:, :, weaker <= strength].reshape(2, -1, margin.shape[-1]) for strength in strengths]
    return np.stack([cross_fit(row) for row in rows])


def margins(probs: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Return the label's probability minus the highest other one, (..., N): above 0 where the prediction is right.

    Of equal probabilities the first class is predicted, as in `correct`; where that is the label, the margin is the
    smallest number above 0. `probs` are (..., N, C), `labels` integers (N,) in 0..C-1.
    """
    table = np.asarray(probs, np.float64)
    if table.ndim < 2 or table.size == 0:
        raise ValueError(f"`probs` must have the shape (..., N, C) with at least one image, got {table.shape}")
    classes = class_labels(labels, table.shape)
    if not (table.min() >= 0 and table.max() <= 1 + 1e-5):
        raise ValueError(f"probabilities must be in [0, 1], got {table.min()} to {table.max()}")
    images = np.arange(len(classes))
    own = table[..., images, classes]
    others = table.copy()
    others[..., images, classes] = -np.inf
    margin = own - others.max(axis=-1)
    ties = (margin == 0) & (table.argmax(axis=-1) == classes)
    return np.asarray(np.where(ties, np.nextafter(0.0, 1.0), margin))


def cross_fit(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Choose each image's worst candidate on one half of the passes and score it on the other, and vice versa.

    `margin` is (2, M, N): halves, candidates (an attack at a strength), images; right where above 0.
    """
    images = np.arange(margin.shape[-1])
    first, second = margin.argmin(axis=1)
    right = np.stack([margin[1, first, images] > 0, margin[0, second, images] > 0])
    return np.asarray(right.mean(axis=0))

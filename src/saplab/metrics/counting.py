"""Accuracy of a stochastic network, counted in several ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.metrics.accuracy import accuracy, hits_and_passes, single_pass_accuracy
from saplab.metrics.intervals import Interval, mean_interval

TRIES: Final = (10, 100)  # of an attacker who goes on trying; one try is a single pass


@dataclass(frozen=True)
class Counts:
    """The share of images, 0 to 1, that are classified correctly, in several senses, with 95 % intervals over images.

    Attributes:
        averaged: by the class with the highest mean probability.
        single_pass: by one pass.
        majority: by the class that most passes predict, the first of equals.
        after: by each of so many passes, by their number: left after as many tries, where there are enough passes.
        passes: over each image, at least 1 (the fewest, K).
    """

    averaged: Interval
    single_pass: Interval
    majority: Interval
    after: Mapping[int, Interval]
    passes: int


def count(probs: ArrayLike, votes: ArrayLike, labels: ArrayLike, tries: Sequence[int] = TRIES) -> Counts:
    """Measure the accuracy of a stochastic network in several senses.

    `probs` are means over the passes (N, C); `votes` and `labels` as in `single_pass_accuracy`. What is left after
    more tries than there are passes cannot be estimated without bias, and is left out.
    """
    hits, passes = hits_and_passes(votes, labels)
    fewest = int(passes.min())
    after = {k: mean_interval(left_after(hits, passes, k), fewest // k) for k in tries if k <= fewest}
    averaged, single = accuracy(probs, labels), single_pass_accuracy(votes, labels)
    return Counts(averaged, single, mean_interval(right_by_majority(votes, labels)), after, fewest)


def right_by_majority(votes: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Return, for each image, whether the class that most passes predict (the first of equals) is its label: (N,)."""
    hits_and_passes(votes, labels)
    return np.asarray(np.asarray(votes).argmax(axis=1) == np.asarray(labels))


def left_after(hits: ArrayLike, passes: ArrayLike, tries: int) -> NDArray[np.float64]:
    """Estimate, for each image, the chance that an attacker who may try so often never succeeds: (N,) in [0, 1].

    Each try meets a pass of its own, and fails with the chance 1 - p that this pass is right: what is left is
    (1 - p)^k. With h of K passes right, the unbiased estimate is C(h, k) / C(K, k), the share of the subsets of k
    passes that are all right (a U-statistic; the estimator of pass^k). For K = k it is what was observed; for K < k
    there is no unbiased estimate.

    Args:
        hits: (N,) right passes.
        passes: (N,) all passes.
        tries: k.
    """
    right, every = np.broadcast_arrays(hits, passes)
    if tries < 1:
        raise ValueError(f"`tries` must be >= 1, got {tries}")
    if every.min() < tries:
        raise ValueError(f"`passes` must be at least {tries}, the tries, for every image, got {every.min()}")
    taken = np.arange(tries)
    return np.asarray(np.prod(np.maximum(right[..., None] - taken, 0) / (every[..., None] - taken), axis=-1))

"""Accuracy of a stochastic network, counted in five ways."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.metrics.accuracy import accuracy, hits_and_passes, single_pass_accuracy
from saplab.metrics.intervals import Interval, mean_interval


@dataclass(frozen=True)
class Counts:
    """The share of images that are classified correctly, in five senses, with 95 % intervals over images."""

    averaged: Interval  # by the class with the highest mean probability
    single_pass: Interval  # by one pass
    majority: Interval  # by the class that most passes predict, the first of equals
    in_all: Interval | None  # by all of `of` passes; None where fewer were made
    in_any: Interval | None  # by at least one of them
    of: int
    passes: int  # over each image (the fewest, K)


def count(probs: ArrayLike, votes: ArrayLike, labels: ArrayLike, of: int = 10) -> Counts:
    """Measure the accuracy of a stochastic network in five senses.

    `probs` are means over the passes (N, C); `votes` and `labels` as in `single_pass_accuracy`.
    """
    fewest = int(hits_and_passes(votes, labels)[1].min())
    in_all = in_any = None
    if fewest >= of:
        every, some = right_in_all(votes, labels, of), right_in_any(votes, labels, of)
        in_all, in_any = (mean_interval(scores, fewest // of) for scores in (every, some))
    averaged, single = accuracy(probs, labels), single_pass_accuracy(votes, labels)
    return Counts(averaged, single, mean_interval(right_by_majority(votes, labels)), in_all, in_any, of, fewest)


def right_by_majority(votes: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Return, for each image, whether the class that most passes predict (the first of equals) is its label: (N,)."""
    hits_and_passes(votes, labels)
    return np.asarray(np.asarray(votes).argmax(axis=1) == np.asarray(labels))


def right_in_all(votes: ArrayLike, labels: ArrayLike, of: int = 10) -> NDArray[np.float64]:
    """Estimate, for each image, the chance that `of` passes are all right: (N,) in [0, 1].

    With h of K passes right and m = `of`, the unbiased estimate is C(h, m) / C(K, m), the share of the subsets of m
    passes that are all right (a U-statistic; the estimator of pass^k). For K = m it is what was observed.
    """
    return _share_of_subsets(*hits_and_passes(votes, labels), of)


def right_in_any(votes: ArrayLike, labels: ArrayLike, of: int = 10) -> NDArray[np.float64]:
    """Estimate, for each image, the chance that at least one of `of` passes is right: 1 - C(K - h, m) / C(K, m)."""
    hits, passes = hits_and_passes(votes, labels)
    return 1 - _share_of_subsets(passes - hits, passes, of)


def _share_of_subsets(chosen: NDArray[np.int64], passes: NDArray[np.int64], of: int) -> NDArray[np.float64]:
    if of < 1:
        raise ValueError(f"`of` must be >= 1, got {of}")
    if passes.min() < of:
        raise ValueError(f"`votes` must hold at least {of} passes of every image, got {passes.min()}")
    taken = np.arange(of)
    return np.asarray(np.prod(np.maximum(chosen[:, None] - taken, 0) / (passes[:, None] - taken), axis=1))

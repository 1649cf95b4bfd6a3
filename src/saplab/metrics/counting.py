"""What K single passes and their average say of each image, counted in five ways."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.metrics.accuracy import accuracy, hits_and_passes, single_pass_accuracy
from saplab.metrics.intervals import Interval, mean_interval


@dataclass(frozen=True)
class Counts:
    """The share of images that are right, by the way of counting; 95 % intervals over images.

    Args:
        averaged: the class with the highest mean probability.
        single_pass: one pass.
        majority: the class that most passes found, the first of equals.
        in_all, in_any: all of `of` passes, and at least one of them; None where fewer passes were made.
        of: passes that `in_all` and `in_any` speak of.
        passes: passes made of each image (the fewest, K).
    """

    averaged: Interval
    single_pass: Interval
    majority: Interval
    in_all: Interval | None
    in_any: Interval | None
    of: int
    passes: int


def count(probs: ArrayLike, votes: ArrayLike, labels: ArrayLike, of: int = 10) -> Counts:
    """Count right images in every way that a stochastic network allows.

    Args:
        probs: mean probabilities over the passes (N, C).
        votes: counts (N, C): how many passes over image i found class j the likeliest.
        labels: classes (N,).
        of: passes of which all, or any, shall be right.

    Raises:
        ValueError: as `accuracy` and `single_pass_accuracy`; `of` < 1.
    """
    _, passes = hits_and_passes(votes, labels)
    fewest = int(passes.min())
    in_all = in_any = None
    if fewest >= of:
        every, some = right_in_all(votes, labels, of), right_in_any(votes, labels, of)
        in_all, in_any = (mean_interval(scores, fewest // of) for scores in (every, some))
    majority = mean_interval(right_by_majority(votes, labels))
    return Counts(
        accuracy(probs, labels), single_pass_accuracy(votes, labels), majority, in_all, in_any, of, fewest
    )  # fmt: skip


def right_by_majority(votes: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Say for each image whether the class that most passes found (the first of equals) is its label: (N,)."""
    hits_and_passes(votes, labels)
    return np.asarray(np.asarray(votes).argmax(axis=1) == np.asarray(labels))


def right_in_all(votes: ArrayLike, labels: ArrayLike, of: int = 10) -> NDArray[np.float64]:
    """Estimate for each image the chance that `of` passes are all right: (N,) in [0, 1].

    The unbiased estimate from h right ones of K passes is the hypergeometric C(h, m) / C(K, m), m = `of`: the share of
    the subsets of m passes that are all right (a U-statistic; the estimator of pass^k). It is exact for K = m.

    Raises:
        ValueError: as `single_pass_accuracy`, `of` < 1, or an image with fewer passes than `of`.
    """
    hits, passes = hits_and_passes(votes, labels)
    return _share_of_subsets(hits, passes, of)


def right_in_any(votes: ArrayLike, labels: ArrayLike, of: int = 10) -> NDArray[np.float64]:
    """Estimate for each image the chance that at least one of `of` passes is right: 1 - C(K - h, m) / C(K, m).

    Raises:
        ValueError: as `right_in_all`.
    """
    hits, passes = hits_and_passes(votes, labels)
    return 1 - _share_of_subsets(passes - hits, passes, of)


def _share_of_subsets(chosen: NDArray[np.int64], passes: NDArray[np.int64], of: int) -> NDArray[np.float64]:
    if of < 1:
        raise ValueError(f"`of` must be >= 1, got {of}")
    if passes.min() < of:
        raise ValueError(f"`votes` must hold at least {of} passes of every image, got {passes.min()}")
    taken = np.arange(of)
    return np.asarray(np.prod(np.maximum(chosen[:, None] - taken, 0) / (passes[:, None] - taken), axis=1))

"""Accuracy from stored predictions, with 95 % intervals for a sample of images."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.metrics.intervals import Interval, mean_interval


def accuracy(probs: ArrayLike, labels: ArrayLike) -> Interval:
    """Estimate the share of images whose most probable class is their label, with the Wilson interval.

    `probs` are (N, C), `labels` integers (N,) in 0..C-1; ValueError if they are not.

    Examples:
        >>> accuracy([[0.9, 0.1], [0.2, 0.8]], [0, 0]).percent()
        '50.0 % [9.5, 90.5]'
    """
    return mean_interval(correct(probs, labels))


def single_pass_accuracy(votes: ArrayLike, labels: ArrayLike) -> Interval:
    """Estimate the chance that one stochastic pass over a random image predicts its label.

    The passes of one image are no independent evidence about other images, so the sample is the images: see
    `mean_interval`. With one pass per image this is `accuracy`. `votes` counts (N, C) for how many passes over image i
    class j was the most probable; ValueError for an image without a pass.
    """
    shares = pass_shares(votes, labels)
    return mean_interval(shares, passes=int(np.asarray(votes).sum(axis=1).min()))


def correct(probs: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Return, for each image, whether its most probable class (the first of equals) is its label: (N,)."""
    table = _checked_table(probs, "probs")
    classes = class_labels(labels, table.shape)
    if not (np.isfinite(table).all() and table.min() >= 0 and table.max() <= 1 + 1e-5):
        raise ValueError(f"`probs` must be in [0, 1], got {table.min()} to {table.max()}")
    return np.asarray(table.argmax(axis=1) == classes)


def pass_shares(votes: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Return, for each image, the share of its passes that predicted its label: (N,) in [0, 1]."""
    hits, passes = hits_and_passes(votes, labels)
    return np.asarray(hits / passes)


def hits_and_passes(votes: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each image, how many of its passes predicted its label, and how many there are: (N,) each."""
    table = _checked_table(votes, "votes")
    classes = class_labels(labels, table.shape)
    if not np.issubdtype(table.dtype, np.integer) or table.min() < 0:
        raise ValueError(f"`votes` must be counts, got {table.dtype} from {table.min()}")
    passes = table.sum(axis=1, dtype=np.int64)
    if passes.min() == 0:
        raise ValueError(f"`votes` must hold at least one pass of every image, got none of image {passes.argmin()}")
    return np.asarray(table[np.arange(len(classes)), classes], np.int64), passes


def class_labels(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return labels as int64 (N,), after checking that they are classes of a table of that shape, (..., N, C)."""
    images, count = shape[-2:]
    classes = np.asarray(labels)
    if classes.shape != (images,):
        raise ValueError(f"`labels` must have the shape ({images},), got {classes.shape}")
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"`labels` must be whole numbers, got {classes.dtype}")
    if classes.min() < 0 or classes.max() >= count:
        raise ValueError(f"`labels` must be in 0..{count - 1}, got {classes.min()} to {classes.max()}")
    return classes.astype(np.int64)


def _checked_table(table: ArrayLike, name: str) -> NDArray[np.generic]:
    values = np.asarray(table)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"`{name}` must have the shape (N, C) with at least one image, got {values.shape}")
    return values

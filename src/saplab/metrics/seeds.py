"""Accuracy over several seeds of a defence: how much it varies with the images and how much with the draws."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from saplab.metrics.intervals import FEW, Interval, mean_interval, wilson

_ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class OverSeeds:
    """The mean over S seeds and N images, a share of 0 to 1, with three 95 % intervals.

    Attributes:
        images: for other images (Wilson, as `mean_interval`).
        noise: for other seeds on these images (Student's t on the S means, which vary at least as draws of each image's
            own make them).
        combined: for other seeds on other images.
        deviation: standard deviation of one seed's mean, 0 to 1.
        seeds: how many, at least 2.
    """

    images: Interval
    noise: Interval
    combined: Interval
    deviation: float
    seeds: int


def over_seeds(right: ArrayLike) -> OverSeeds:
    """Estimate the mean of scores that depend on the image and on the defence's seed.

    The combined interval takes images and seeds as crossed random effects (Cornfield & Tukey 1956): the variance of
    the mean is (MS_images + MS_seeds - MS_error) / (S N), by Satterthwaite's degrees of freedom, in Wilson's formula.
    `right` is (S, N), a row for each seed and the same images in each; numbers in [0, 1], such as `correct` returns.
    Raises ValueError for fewer than two seeds or images.
    """
    scores = np.asarray(right, dtype=np.float64)
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise ValueError(f"`right` must have the shape (S, N) with at least 2 seeds and images, got {scores.shape}")
    if not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"`right` must be in [0, 1], got {scores.min()} to {scores.max()}")
    seeds, images = scores.shape
    means = scores.mean(axis=1)
    mean, deviation = float(means.mean()), float(means.std(ddof=1))
    ms_error = _ms_error(scores)
    spread = max(deviation, float(np.sqrt(ms_error / images)))  # means of two seeds may agree by luck
    half = float(stdtrit(seeds - 1, 0.975)) * spread / np.sqrt(seeds)
    noise = Interval(mean, max(mean - half, 0.0), min(mean + half, 1.0), images)
    of_images = mean_interval(scores.mean(axis=0), passes=seeds)
    return OverSeeds(of_images, noise, _combined(scores, mean, ms_error), deviation, seeds)


def _combined(scores: NDArray[np.float64], mean: float, ms_error: float) -> Interval:
    seeds, images = scores.shape
    rows, columns = scores.mean(axis=1) - mean, scores.mean(axis=0) - mean
    ms_seeds = images * np.sum(rows**2) / (seeds - 1)
    ms_images = seeds * np.sum(columns**2) / (images - 1)
    total = max(ms_images + ms_seeds - ms_error, ms_images, ms_seeds)
    if total < _ROUNDING:
        return mean_interval(scores.mean(axis=0))
    freedom = total**2 / (ms_images**2 / (images - 1) + ms_seeds**2 / (seeds - 1))
    most = images if min(mean, 1 - mean) * images < FEW else seeds * images
    trials = min(mean * (1 - mean) * seeds * images / total, most)
    low, high = wilson(mean, trials, float(stdtrit(freedom, 0.975)))
    return Interval(mean, low, high, images)


def _ms_error(scores: NDArray[np.float64]) -> float:
    """Return the mean square that neither seed nor image explains."""
    seeds, images = scores.shape
    rows, columns = scores.mean(axis=1, keepdims=True), scores.mean(axis=0)
    return float(np.sum((scores - rows - columns + scores.mean()) ** 2) / ((seeds - 1) * (images - 1)))

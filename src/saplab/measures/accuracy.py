"""Accuracy from stored predictions, with 95 % intervals whose sample is the images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

Z95 = float(ndtri(0.975))


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % confidence interval.

    Args:
        estimate, low, high: shares, 0 to 1 (differences of shares, -1 to 1).
        n: images behind the estimate.
    """

    estimate: float
    low: float
    high: float
    n: int

    def percent(self, digits: int = 1) -> str:
        """Give the text ``85.2 % [83.1, 87.1]``."""
        estimate, low, high = (f"{100 * share:.{digits}f}" for share in (self.estimate, self.low, self.high))
        return f"{estimate} % [{low}, {high}]"


def accuracy(probs: ArrayLike, labels: ArrayLike) -> Interval:
    """Estimate the share of images whose likeliest class is their label, with the Wilson interval.

    Args:
        probs: probabilities (N, C).
        labels: classes (N,), whole numbers in 0..C-1.

    Raises:
        ValueError: for other shapes, no image, labels that are not classes, probabilities outside [0, 1].

    Example:
        >>> accuracy([[0.9, 0.1], [0.2, 0.8]], [0, 0]).percent()
        '50.0 % [9.5, 90.5]'
    """
    return mean_interval(correct(probs, labels))


def single_pass_accuracy(votes: ArrayLike, labels: ArrayLike) -> Interval:
    """Estimate the chance that one stochastic pass over a random image gives its label.

    The passes of one image are not independent evidence about other images, so the sample is the images: see
    `mean_interval`. With one pass per image this is `accuracy`.

    Args:
        votes: counts (N, C): how many passes over image i found class j the likeliest.
        labels: classes (N,), whole numbers in 0..C-1.

    Raises:
        ValueError: as `accuracy`, and for counts below 0, fractions, or an image without a pass.
    """
    shares = pass_shares(votes, labels)
    return mean_interval(shares, passes=int(np.asarray(votes).sum(axis=1).max()))


def correct(probs: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Say for each image whether its likeliest class (the first of equals) is its label: (N,)."""
    table, classes = _checked(probs, labels, "probs")
    if not (np.isfinite(table).all() and table.min() >= 0 and table.max() <= 1 + 1e-5):
        raise ValueError(f"`probs` must be in [0, 1], got {table.min()} to {table.max()}")
    return np.asarray(table.argmax(axis=1) == classes)


def pass_shares(votes: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Give for each image the share of its single passes that found its label: (N,) in [0, 1]."""
    table, classes = _checked(votes, labels, "votes")
    if not np.issubdtype(table.dtype, np.integer) or table.min() < 0:
        raise ValueError(f"`votes` must be counts, got {table.dtype} from {table.min()}")
    passes = table.sum(axis=1)
    if passes.min() == 0:
        raise ValueError(f"`votes` must hold at least one pass of every image, got none of image {passes.argmin()}")
    return np.asarray(table[np.arange(len(classes)), classes] / passes)


def mean_interval(scores: ArrayLike, passes: int = 1) -> Interval:
    """Estimate the mean of per-image scores, with a Wilson interval for a sample of images.

    Wilson's formula takes the effective number of independent trials p(1-p) / var(mean), as is usual for cluster
    samples (Korn & Graubard 1998; Franco et al. 2019, "Comparative study of confidence intervals for proportions in
    complex sample surveys"). It lies between N and N * passes; for scores of 0 and 1 it is N exactly.

    Args:
        scores: one number in [0, 1] per image (N,).
        passes: trials behind each score; bounds the effective number where the scores hardly vary.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"`scores` must be numbers in [0, 1], one per image, got shape {values.shape}")
    mean = float(values.mean())
    low, high = _wilson(mean, _effective_n(values, passes))
    return Interval(mean, low, high, values.size)


def paired_difference(first: ArrayLike, second: ArrayLike, passes: int = 1) -> Interval:
    """Estimate mean(first) - mean(second) for two scores of the same images, with Newcombe's paired interval.

    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", method 10; for scores between 0 and 1 with the effective numbers of `mean_interval`.

    Args:
        first, second: scores of the same images in the same order (N,), such as `correct` gives.
        passes: trials behind each score, as in `mean_interval`.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"`first` and `second` must score the same images, got shapes {a.shape} and {b.shape}")
    p, q = mean_interval(a, passes), mean_interval(b, passes)
    phi = _correlation(a, b)
    down = _hypotenuse(p.estimate - p.low, q.high - q.estimate, phi)
    up = _hypotenuse(q.estimate - q.low, p.high - p.estimate, phi)
    theta = p.estimate - q.estimate
    return Interval(theta, max(theta - down, -1.0), min(theta + up, 1.0), p.n)


def _checked(table: ArrayLike, labels: ArrayLike, name: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    values, classes = np.asarray(table), np.asarray(labels)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"`{name}` must have the shape (N, C) with at least one image, got {values.shape}")
    if classes.shape != values.shape[:1]:
        raise ValueError(f"`labels` must have the shape ({len(values)},), got {classes.shape}")
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"`labels` must be whole numbers, got {classes.dtype}")
    if classes.min() < 0 or classes.max() >= values.shape[1]:
        raise ValueError(f"`labels` must be in 0..{values.shape[1] - 1}, got {classes.min()} to {classes.max()}")
    return values, classes


def _effective_n(scores: NDArray[np.float64], passes: int) -> float:
    p, variance, n = scores.mean(), scores.var(), scores.size
    if variance == 0:
        return float(n if p in (0, 1) else n * passes)
    return float(np.clip(p * (1 - p) * n / variance, n, n * passes))


def _wilson(p: float, n: float) -> tuple[float, float]:
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return float(max(centre - half, 0.0)) if p > 0 else 0.0, float(min(centre + half, 1.0)) if p < 1 else 1.0


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    scale = a.std() * b.std()
    if scale == 0:
        return 0.0
    covariance = np.mean((a - a.mean()) * (b - b.mean()))
    corrected = max(covariance - 1 / (2 * a.size), 0) if covariance > 0 else covariance
    return float(corrected / scale)


def _hypotenuse(a: float, b: float, phi: float) -> float:
    return float(np.sqrt(max(a**2 - 2 * phi * a * b + b**2, 0.0)))

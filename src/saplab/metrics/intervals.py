"""Confidence intervals for means of per-image scores and for their differences; the sample is the images."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri

FEW: Final = 5  # images that are right, or wrong, of which too little is known of how images differ


@dataclass(frozen=True)
class Interval:
    """An estimated share, 0 to 1, or a difference of shares, -1 to 1, with its confidence interval, usually of 95 %.

    Attributes:
        estimate: the share or difference; a share of 0.25 is 25 %.
        low: lower end of the interval, in the estimate's unit and range.
        high: upper end of the interval.
        n: images behind the estimate, at least 1.
    """

    estimate: float
    low: float
    high: float
    n: int

    def percent(self, digits: int = 1) -> str:
        """Return text such as ``85.2 % [83.1, 87.1]``."""
        estimate, low, high = (f"{100 * share:.{digits}f}" for share in (self.estimate, self.low, self.high))
        return f"{estimate} % [{low}, {high}]"


def mean_interval(scores: ArrayLike, passes: int = 1, confidence: float = 0.95) -> Interval:
    """Estimate the mean of per-image scores, with a Wilson interval for a sample of images.

    Wilson's formula takes the effective number of independent trials p(1-p) / var(mean), as is usual for cluster
    samples (Korn & Graubard 1998; Franco et al. 2019, "Comparative study of confidence intervals for proportions in
    complex sample surveys"). It lies between N and N * passes; for scores of 0 and 1 it is N exactly.

    Args:
        scores: one number in [0, 1] per image (N,).
        passes: trials behind each score, the fewest; bounds the effective number where the scores hardly vary.
        confidence: of the interval; for m intervals that must hold jointly, 1 - 0.05 / m (Bonferroni).
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"`scores` must be numbers in [0, 1], one per image, got shape {values.shape}")
    mean = float(values.mean())
    low, high = wilson(mean, effective_n(values, passes), normal_quantile(confidence))
    return Interval(mean, low, high, values.size)


def paired_difference(first: ArrayLike, second: ArrayLike, passes: int = 1, confidence: float = 0.95) -> Interval:
    """Estimate mean(first) - mean(second) for two scores of the same images, with Newcombe's paired interval.

    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", method 10; for scores between 0 and 1 with the effective numbers of `mean_interval`. Both scores are
    (N,), such as `correct` returns, with the images in the same order.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"`first` and `second` must score the same images, got shapes {a.shape} and {b.shape}")
    p, q = mean_interval(a, passes, confidence), mean_interval(b, passes, confidence)
    phi = _correlation(a, b)
    down = _hypotenuse(p.estimate - p.low, q.high - q.estimate, phi)
    up = _hypotenuse(q.estimate - q.low, p.high - p.estimate, phi)
    theta = p.estimate - q.estimate
    return Interval(theta, max(theta - down, -1.0), min(theta + up, 1.0), p.n)


def normal_quantile(confidence: float) -> float:
    """Return the z with P(|Z| <= z) = confidence: 1.96 for 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1), got {confidence}")
    return float(ndtri((1 + confidence) / 2))


def effective_n(scores: NDArray[np.float64], passes: int) -> float:
    """Return the number of independent trials whose mean would vary as much as that of the per-image scores.

    One image is one trial, however many passes it had: how images differ cannot be seen in it. Nor can it where fewer
    than five images' worth of passes are right, or wrong: a few images that are always so may be missing from the
    sample. Intervals of shares of passes are too narrow for fewer than some 50 images, whose variance is hardly known.
    """
    p, variance, n = scores.mean(), scores.var(), scores.size
    if n == 1 or min(p, 1 - p) * n < FEW:
        return float(n)
    if variance == 0:
        return float(n * passes)
    return float(np.clip(p * (1 - p) * n / variance, n, n * passes))


def wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval (1927) for a share `p` of `n` trials at the normal quantile `z`."""
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return float(max(centre - half, 0.0)) if p > 0 else 0.0, float(min(centre + half, 1.0)) if p < 1 else 1.0


def lower_bound(hits: ArrayLike, trials: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return the one-sided lower bound of Clopper & Pearson (1934) for shares, at the level `alpha`.

    A share p below it gives as many `hits` of `trials` with a probability of less than `alpha`. With all of n hit it is
    α^(1/n), with none 0.
    """
    k, n = np.asarray(hits, np.float64), np.asarray(trials, np.float64)
    return np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0.0)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    scale = a.std() * b.std()
    if scale == 0:
        return 0.0
    covariance = np.mean((a - a.mean()) * (b - b.mean()))
    corrected = max(covariance - 1 / (2 * a.size), 0) if covariance > 0 else covariance
    return float(corrected / scale)


def _hypotenuse(a: float, b: float, phi: float) -> float:
    return float(np.sqrt(max(a**2 - 2 * phi * a * b + b**2, 0.0)))

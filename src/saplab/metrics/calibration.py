"""Calibration: whether predictions with confidence c are right in a share c of the cases."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.metrics.accuracy import class_labels
from saplab.metrics.intervals import Interval
from saplab.metrics.resampling import resamples


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: predictions by confidence, in B bins of equal width.

    Attributes:
        edges: (B + 1,) from 0 to 1; bin m holds confidences in (edges[m], edges[m + 1]], the first bin also 0.
        counts: (B,) numbers of predictions.
        confidence: (B,) their mean confidence, 0 to 1; NaN in an empty bin.
        accuracy: (B,) the share of them that is right, 0 to 1; NaN in an empty bin.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far probabilities are from frequencies; the interval is a 95 % bootstrap over images.

    Attributes:
        reliability: the diagram behind `ece` and `mce`.
        ece: expected calibration error, the mean gap between confidence and accuracy, 0 to 1.
        adaptive_ece: the same with bins that hold equal numbers of predictions, 0 to 1.
        mce: maximum calibration error, the largest gap of a bin, 0 to 1.
        brier: mean of Σ over classes of (p - y)², 0 to 2.
        nll: mean negative log-likelihood of the label, in nats, from 0; infinite where a label has probability 0.
    """

    reliability: Reliability
    ece: Interval
    adaptive_ece: float
    mce: float
    brier: float
    nll: float


def calibration(
    probs: ArrayLike, labels: ArrayLike, bins: int = 15, *, seed: int = 0, replicates: int = 1000
) -> Calibration:
    """Measure the calibration of averaged probabilities, or of single passes.

    Source: Guo et al. 2017, "On calibration of modern neural networks", section 2 (the paper's Fig. 4 is their
    diagram); adaptive ECE: Nixon et al. 2019, "Measuring calibration in deep learning"; Brier 1950.

    An estimated ECE is too high on average, the more so the fewer images a bin holds, and resampling adds as much
    again, so that plain percentiles of the bootstrap exclude the truth for a calibrated network. The interval's lower
    end is therefore ECE - q, where q is the 97.5 % quantile of Σ|gap* - gap| over bins, which bounds any difference of
    two ECEs; its upper end is the percentile, which is conservative.

    Raises ValueError for rows that are not probabilities and labels that are not classes.

    Args:
        probs: probabilities (N, C), or those of K single passes (K, N, C), whose images are resampled as wholes.
        labels: classes (N,), integers in 0..C-1.
        bins: number of bins of equal width; the paper's diagrams have 10, Guo's 15.
        seed: of the bootstrap.
        replicates: of the bootstrap.

    Examples:
        >>> calibration([[0.8, 0.2], [0.4, 0.6]], [0, 0]).ece.percent()
        '40.0 % [0.0, 60.0]'
    """
    table, classes = _passes(probs, labels)
    confidence, right = table.max(axis=-1), (table.argmax(axis=-1) == classes).astype(np.float64)
    sums = _bin_sums(confidence, right, bins)
    diagram = _diagram(sums)
    gaps = np.abs(diagram.confidence - diagram.accuracy)
    likelihood = table[:, np.arange(len(classes)), classes]
    with np.errstate(divide="ignore"):
        nll = float(-np.log(likelihood).mean())
    brier = float(np.mean((table**2).sum(axis=-1) - 2 * likelihood + 1))
    ece = _bootstrapped(sums, seed, replicates)
    return Calibration(diagram, ece, _adaptive(confidence, right, bins), float(np.nanmax(gaps)), brier, nll)


def _passes(probs: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    table = np.asarray(probs, np.float64)
    if table.ndim not in (2, 3) or table.size == 0:
        raise ValueError(f"`probs` must have the shape (N, C) or (K, N, C) with at least one image, got {table.shape}")
    classes = class_labels(labels, table.shape)
    if not (table.min() >= 0 and np.allclose(table.sum(axis=-1), 1, rtol=0, atol=1e-3)):
        raise ValueError(f"`probs` must be probabilities that add up to 1, got rows from {table.min()}")
    return np.minimum(table.reshape(-1, *table.shape[-2:]), 1.0), classes


def _bin_sums(confidence: NDArray[np.float64], right: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Sum (number, confidence, right) over each image's passes by bin: from (K, N) each to (N, B, 3)."""
    if bins < 1:
        raise ValueError(f"`bins` must be >= 1, got {bins}")
    images = confidence.shape[1]
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(inner, confidence, side="left") + bins * np.arange(images)
    columns = [np.ones_like(confidence), confidence, right]
    sums = [np.bincount(place.ravel(), column.ravel(), images * bins) for column in columns]
    return np.stack(sums, axis=1).reshape(images, bins, 3).astype(np.float64)


def _diagram(sums: NDArray[np.float64]) -> Reliability:
    counts, confidence, right = sums.sum(axis=0).T
    edges = np.linspace(0, 1, len(counts) + 1)
    with np.errstate(invalid="ignore"):
        return Reliability(edges, counts.astype(np.int64), confidence / counts, right / counts)


def _gaps(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return confidence minus accuracy of each bin, times its share of the predictions: from (B, 3) to (B,)."""
    return np.asarray((sums[:, 1] - sums[:, 2]) / sums[:, 0].sum())


def _bootstrapped(sums: NDArray[np.float64], seed: int, replicates: int) -> Interval:
    images, bins, _ = sums.shape
    gaps = _gaps(sums.sum(axis=0))
    flat = sums.reshape(images, -1)
    drawn = np.stack([_gaps((w @ flat).reshape(bins, 3)) for w in resamples(images, replicates, seed)])
    ece = float(np.abs(gaps).sum())
    distance = float(np.quantile(np.abs(drawn - gaps).sum(axis=1), 0.975))
    percentile = float(np.quantile(np.abs(drawn).sum(axis=1), 0.975))
    return Interval(ece, max(ece - distance, 0.0), max(percentile, ece), images)


def _adaptive(confidence: NDArray[np.float64], right: NDArray[np.float64], bins: int) -> float:
    """Return the ECE of bins of equal numbers; equal confidences share their hits, so that no order decides."""
    values, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    shared = np.bincount(group.ravel(), right.ravel()) / size
    gaps = np.repeat(values - shared, size)
    parts = np.array_split(gaps, min(bins, gaps.size))
    return float(sum(abs(part.sum()) for part in parts) / gaps.size)

"""Points of Atari games: means, differences and relative changes, with 95 % intervals for a sample of games."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from saplab.metrics.intervals import Interval


@dataclass(frozen=True)
class Score:
    """A mean score with its 95 % interval.

    Attributes:
        mean: in the game's points, of any sign.
        low, high: ends of the interval, in points; None for a single game and where all games have the same points.
        games: how many, at least 1.
    """

    mean: float
    low: float | None
    high: float | None
    games: int

    def __str__(self) -> str:
        margin = "" if self.high is None else f" ±{self.high - self.mean:.1f}"
        return f"{self.mean:.1f}{margin}"


@dataclass(frozen=True)
class Change:
    """A relative change with its 95 % interval.

    Attributes:
        percent: 100 · (mean - other mean) / other mean, in % of the other mean; of any sign.
        low: lower end of the interval, in %.
        high: upper end of the interval, in %.
    """

    percent: float
    low: float
    high: float


def mean_score(scores: Sequence[float]) -> Score:
    """Estimate the mean of the scores of independent games, with Student's interval."""
    values = _checked(scores, "scores")
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Score(mean, None, None, len(values))
    half = float(stdtrit(len(values) - 1, 0.975) * np.sqrt(_variance_of_mean(values)))
    return Score(mean, mean - half, mean + half, len(values))


def relative_change(defended: Sequence[float], original: Sequence[float]) -> Change | None:
    """Estimate 100 · (mean(defended) - mean(original)) / mean(original), the numbers of the paper's Table 1.

    The interval is Fieller's (1954, "Some problems in interval estimation") for the ratio of two independent means,
    with Welch's degrees of freedom. None where the original's mean is not significantly above zero, as the ratio then
    has no bounded interval, where one of them is a single game, and where nothing tells how much points vary: all games
    of both have the same, or those of the first have none.
    """
    a, b = _checked(defended, "defended"), _checked(original, "original")
    if min(len(a), len(b)) < 2 or b.mean() <= 0:
        return None
    va, vb = _variance_of_mean(a), _variance_of_mean(b)
    ratio = a.mean() / b.mean()
    if va + ratio**2 * vb == 0:
        return None
    t = _student(va, len(a), ratio**2 * vb, len(b))  # of mean(a) - ratio · mean(b)
    g = t**2 * vb / b.mean() ** 2
    if g >= 1:
        return None
    half = t / b.mean() * np.sqrt((1 - g) * va + ratio**2 * vb)
    low, high = (ratio - half) / (1 - g), (ratio + half) / (1 - g)
    return Change(*(100 * (float(r) - 1) for r in (ratio, low, high)))


def score_difference(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Estimate mean(first) - mean(second) in points, with Welch's interval.

    None where one of them is a single game, and where all games of both have the same points, each its own.
    """
    a, b = _checked(first, "first"), _checked(second, "second")
    if min(len(a), len(b)) < 2:
        return None
    va, vb = _variance_of_mean(a), _variance_of_mean(b)
    if va + vb == 0:
        return None
    half = _student(va, len(a), vb, len(b), confidence) * float(np.sqrt(va + vb))
    difference = float(a.mean() - b.mean())
    return Interval(difference, difference - half, difference + half, len(a) + len(b))


def permutation_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p of no difference of the means, by a permutation test of Welch's statistic.

    It is exact where both samples have one law, also where nearly all points are alike and Student's interval is too
    narrow, and close for many games where the means alone are the same (Janssen 1997, "Studentized permutation tests
    for non-i.i.d. hypotheses"). Of 9,999 permutations, the same in every call.
    """
    from scipy.stats import permutation_test  # slow to import, and only claims need it

    a, b = _checked(first, "first"), _checked(second, "second")
    found = permutation_test(
        (a, b), _welch, vectorized=True, n_resamples=9999, batch=1000, random_state=np.random.default_rng(0)
    )
    return float(found.pvalue)


def _welch(first: Any, second: Any, axis: int) -> Any:
    """Return Welch's t in float32, so that what rounding tells apart counts as equal; finite without any spread."""
    difference = first.mean(axis=axis) - second.mean(axis=axis)
    variances = (values.var(axis=axis, ddof=1) / values.shape[axis] for values in (first, second))
    return (difference / np.maximum(np.sqrt(sum(variances)), 1e-30)).astype(np.float32)


def _checked(scores: Sequence[float], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite numbers, at least one, got {scores!r}")
    return values


def _variance_of_mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(values.var(ddof=1) / len(values))


def _student(va: float, na: int, vb: float, nb: int, confidence: float = 0.95) -> float:
    """Return the t with P(|T| <= t) = `confidence` of Student's law with Welch's degrees of freedom."""
    spread = va**2 / (na - 1) + vb**2 / (nb - 1)
    return float(stdtrit((va + vb) ** 2 / spread, (1 + confidence) / 2))

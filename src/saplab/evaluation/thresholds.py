"""What a verdict holds against a fixed level: agreement and length of gradients, accuracy in an unbounded ball."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtrit

from saplab.attacks.threat import ROUNDING
from saplab.evaluation.comparisons import MARGIN, Point
from saplab.evaluation.evidence import Case, Evidence
from saplab.metrics import Interval, mean_interval
from saplab.metrics.intervals import lower_bound

COSINE: Final = 1 / 3
"""The gradients s + e and s + e' of two halves have the cosine c = |s|² / (|s|² + |e|²) on average; the noise of their
mean, |e|² / 2, outweighs its signal |s|² below c = 1/3."""

_TWO_CLASSES: Final = 0.5  # chance of the fewest classes that there can be
NORM: Final = 0.1  # a gradient shorter than a tenth of the undefended network's counts as vanishing

_floats = partial(np.asarray, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Level:
    """A number that should lie on one side of a level."""

    number: Callable[[NDArray[np.float64], float], Interval]  # of values and a confidence
    values: NDArray[np.float64]  # one for each image
    words: Callable[[Interval], str]
    level: float  # the last good number
    above: bool = False  # whether the numbers above it are the bad ones, instead of those below
    slack: float = 0.0  # how far on the bad side the interval may reach

    def excess(self, confidence: float, times: int = 1) -> Interval:
        """Estimate how far the number is on the bad side of the level, of `times` as many images like these."""
        found, sign = self.number(np.tile(self.values, times), confidence), 1 if self.above else -1
        low, estimate, high = sorted(sign * (end - self.level) for end in (found.low, found.estimate, found.high))
        return Interval(estimate, low, high, found.n)

    def text(self, confidence: float) -> str:
        """Return the number, its interval and the level, in words."""
        return self.words(self.number(self.values, confidence))


def half_cosines(case: Case) -> list[Level]:
    """Return the mean cosine between half-sample gradients, at each backward rule's largest number of samples."""
    known = _largest([e for e in case.own if e.half_cosine is not None])
    return [_at_least(COSINE, _mean, _floats(e.half_cosine), f"{e.label}: mean cosine") for e in known]


def gradient_norms(case: Case) -> list[Level]:
    """Return the median, over images, of the gradient's norm as a multiple of the undefended network's, of a loss."""
    plain = {e.loss: _floats(e.gradient_norm) for e in reversed(case.dense) if _has_norm(e)}
    known = _largest([e for e in case.own if _has_norm(e) and e.loss in plain])
    ratios = [(e.label, _ratio(_floats(e.gradient_norm), plain[e.loss])) for e in known]
    told = "median norm over the undefended network's"
    return [_at_least(NORM, median_interval, ratio, f"{who}: {told}") for who, ratio in ratios if ratio.size]


def unbounded(case: Case) -> list[Level]:
    """Return the accuracy that the strongest iterative white-box attack leaves at the largest radius.

    Below `Case.unbounded` it only counts where it is at chance already: the ball may be too small for more. Chance that
    is not known is at most that of two classes, above which the attack has failed; below it cannot be told.
    """
    iterative = [e for e in case.own if e.iterative]
    largest = max((e.eps[-1] for e in iterative), default=0.0)
    points = [Point(e, largest) for e in iterative if e.eps[-1] == largest]
    strongest = min(points, key=lambda point: float(point.scores.mean()), default=None)
    if strongest is None:
        return []
    left, chance = strongest.scores.mean(), case.chance or _TWO_CLASSES
    whole = largest >= case.unbounded * (1 - ROUNDING)
    if (left > chance and not whole) or (0 < left <= chance and not case.chance):
        return []
    label = f"{case.threat.text(largest)}: {strongest.evidence.label} leaves"

    def words(x: Interval) -> str:
        return f"{label} {x.percent()}; chance is {'' if case.chance else 'at most '}{100 * chance:.1f} %"

    return [Level(share_interval, strongest.scores, words, chance, above=True, slack=MARGIN)]


def flat(case: Case) -> list[Level]:
    """Return the share of images still right, at each attack's start or end, at which the own gradient was flat."""
    return [_flat(e) for e in case.own if e.blind.size]


def _flat(evidence: Evidence) -> Level:
    def words(x: Interval) -> str:
        most = f"at most {100 * MARGIN:g} % wanted"
        return f"{evidence.label}: no gradient for {x.percent()} of the images that were still right; {most}"

    return Level(share_interval, evidence.blind, words, MARGIN, above=True, slack=MARGIN)


def _has_norm(evidence: Evidence) -> bool:
    return evidence.own_gradient and evidence.gradient_norm is not None


def _at_least(
    level: float, number: Callable[[NDArray[np.float64], float], Interval], values: NDArray[np.float64], label: str
) -> Level:
    def words(x: Interval) -> str:
        return f"{label} {x.estimate:.2f} [{x.low:.2f}, {x.high:.2f}]; at least {level:.2f} wanted"

    return Level(number, values, words, level)


def _largest(own: Sequence[Evidence]) -> list[Evidence]:
    return list({e.backward: e for e in sorted(own, key=lambda e: e.samples)}.values())


def _ratio(norms: NDArray[np.float64], plain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide the norms, but for images where both gradients are 0; a division by 0 alone is infinite."""
    with np.errstate(divide="ignore"):
        known = (norms > 0) | (plain > 0)
        return np.asarray(norms[known] / plain[known])


def _mean(values: NDArray[np.float64], confidence: float) -> Interval:
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, -np.inf, np.inf, values.size)
    half = float(stdtrit(values.size - 1, (1 + confidence) / 2)) * float(values.std(ddof=1)) / np.sqrt(values.size)
    return Interval(mean, mean - half, mean + half, values.size)


def share_interval(scores: NDArray[np.float64], confidence: float) -> Interval:
    """Estimate a share of images with the interval of Clopper & Pearson (1934); of scores between 0 and 1, Wilson's.

    A level is held against an end of the interval, at a confidence that Wilson's does not keep for shares near 0.
    """
    hits, n = float(scores.sum()), scores.size
    if not np.isin(scores, (0.0, 1.0)).all():
        return mean_interval(scores, 1, confidence)
    alpha = (1 - confidence) / 2
    low, high = float(lower_bound(hits, n, alpha)), 1 - float(lower_bound(n - hits, n, alpha))
    return Interval(hits / n, low, high, n)


def median_interval(values: NDArray[np.float64], confidence: float) -> Interval:
    """Estimate the median of numbers from 0, with order statistics as its interval (Conover 1999, section 3.2).

    The true median is below the k-th smallest of n numbers where fewer than k of them are below it: with probability
    P(Binomial(n, 1/2) <= k - 1), for any continuous distribution. The ends are the k-th smallest and the k-th largest
    for the largest k at which both tails together are at most 1 - `confidence`; 0 and infinity where there is none.
    """
    ranked = np.sort(values)
    tails = 2 * bdtr(np.arange(ranked.size), ranked.size, 0.5)
    k = int(np.sum(tails[: ranked.size // 2] <= 1 - confidence))
    middle = float(ranked[(ranked.size - 1) // 2])
    ends = (float(ranked[k - 1]), float(ranked[-k])) if k else (0.0, np.inf)
    return Interval(middle, *ends, ranked.size)

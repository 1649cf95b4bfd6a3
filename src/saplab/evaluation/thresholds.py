"""What a verdict holds against a fixed level: agreement and length of gradients, accuracy in an unbounded ball."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from saplab.evaluation.comparisons import MARGIN
from saplab.evaluation.evidence import Evidence
from saplab.metrics.intervals import Interval, mean_interval, normal_quantile

COSINE: Final = 1 / 3
"""The gradients s + e and s + e' of two halves have the cosine c = |s|² / (|s|² + |e|²) on average; the noise of their
mean, |e|² / 2, outweighs its signal |s|² below c = 1/3."""

NORM: Final = 0.1
"""A gradient shorter than a tenth of the undefended network's counts as vanishing."""

UNBOUNDED: Final = 64.0
"""λ from which an attack should reach chance: the paper's largest, a quarter of the range of pixels."""


@dataclass(frozen=True, eq=False)
class Level:
    """A number that should lie on one side of a level.

    Args:
        label: what the number is.
        interval: from a confidence to the number's interval.
        level: where it should not be below, or with `above` not above.
        above: whether numbers above the level are the bad ones.
        slack: how far on the bad side its interval may reach.
        percent: whether it is written in %.
    """

    label: str
    interval: Callable[[float], Interval]
    level: float
    above: bool = False
    slack: float = 0.0
    percent: bool = False

    def excess(self, confidence: float) -> Interval:
        """Estimate how far the number is on the bad side of the level."""
        found = self.interval(confidence)
        if self.above:
            ends = (found.estimate - self.level, found.low - self.level, found.high - self.level)
        else:
            ends = (self.level - found.estimate, self.level - found.high, self.level - found.low)
        return Interval(*ends, found.n)

    def text(self, confidence: float) -> str:
        """Write the number, its interval and the level."""
        found = self.interval(confidence)
        if self.percent:
            return f"{self.label} {found.percent()}; chance is {100 * self.level:.1f} %"
        return (
            f"{self.label} {found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]; at least {self.level:.2f} wanted"
        )


def half_cosines(evidence: Sequence[Evidence]) -> list[Level]:
    """Give the mean cosine between half-sample gradients, at each backward rule's largest number of samples."""
    known = _largest([e for e in evidence if e.half_cosine is not None])
    return [Level(f"{e.label}: mean cosine", partial(_mean, _array(e.half_cosine)), COSINE) for e in known]


def gradient_norms(evidence: Sequence[Evidence], dense: Sequence[Evidence]) -> list[Level]:
    """Give the median, over images, of the gradient's norm as a multiple of the undefended network's."""
    known = _largest([e for e in evidence if e.gradient_norm is not None])
    plain = [e for e in dense if e.own_gradient and e.gradient_norm is not None][:1]
    ratios = [(e, _ratio(_array(e.gradient_norm), _array(p.gradient_norm))) for e in known for p in plain]
    return [Level(f"{e.label}: median norm over dense", partial(_median, r), NORM) for e, r in ratios if r.size]


def unbounded(evidence: Sequence[Evidence], chance: float) -> list[Level]:
    """Give the accuracy that the strongest iterative white-box attack leaves at the largest λ.

    Below `UNBOUNDED` it only counts where it is at chance already: the ball may be too small for more.
    """
    iterative = [e for e in evidence if e.own_gradient and e.steps > 1]
    if not iterative:
        return []
    largest = max(e.strengths[-1] for e in iterative)
    strongest = min((e for e in iterative if e.strengths[-1] == largest), key=lambda e: float(e.at(largest).mean()))
    scores = strongest.at(largest)
    if largest < UNBOUNDED and scores.mean() > chance:
        return []
    interval = partial(_accuracy, scores)
    return [
        Level(f"λ = {largest:g}: {strongest.label} leaves", interval, chance, above=True, slack=MARGIN, percent=True)
    ]


def _largest(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Give the evidence with the most samples of each backward rule, among the network's own gradients."""
    own = sorted((e for e in evidence if e.own_gradient), key=lambda e: e.samples)
    return list({e.backward: e for e in own}.values())


def _array(values: NDArray[np.floating] | None) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)


def _ratio(norms: NDArray[np.float64], plain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide the norms, but for images where both gradients are 0; a division by 0 alone is infinite."""
    with np.errstate(divide="ignore"):
        known = (norms > 0) | (plain > 0)
        return np.asarray(norms[known] / plain[known])


def _accuracy(scores: NDArray[np.float64], confidence: float) -> Interval:
    return mean_interval(scores, confidence=confidence)


def _mean(values: NDArray[np.float64], confidence: float) -> Interval:
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, -np.inf, np.inf, values.size)
    half = normal_quantile(confidence) * float(values.std(ddof=1)) / np.sqrt(values.size)
    return Interval(mean, mean - half, mean + half, values.size)


def _median(values: NDArray[np.float64], confidence: float) -> Interval:
    """Estimate the median, with order statistics as its interval: exact for any distribution (Conover 1999, 3.2)."""
    ranked = np.sort(values)
    outside = 2 * bdtr(np.arange(ranked.size), ranked.size, 0.5) <= 1 - confidence
    left_out = int(np.sum(outside[: ranked.size // 2]))
    middle = float(ranked[(ranked.size - 1) // 2])
    if left_out == 0:
        return Interval(middle, 0.0, np.inf, ranked.size)
    return Interval(middle, float(ranked[left_out]), float(ranked[-left_out - 1]), ranked.size)

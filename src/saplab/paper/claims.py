"""What is claimed of a figure's curves, judged by stored results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from saplab.evaluation.findings import whole
from saplab.evaluation.rows import scores_at
from saplab.metrics import correct, paired_difference
from saplab.metrics.calibration import calibration
from saplab.metrics.scores import score_difference
from saplab.paper.study import Claim
from saplab.runs import Curve, Results

Outcome = Literal["holds", "does not hold", "unclear", "not computed"]
ALIKE: Final = 5.0  # accuracies within 5 points of each other are alike

Measured = Mapping[float, Any]  # by λ or ε: probabilities (N, C) and labels (N,) of images, or points of games
_Gap = tuple[float, float, float]  # first minus second in points, and its 95 % interval


@dataclass(frozen=True)
class Judged:
    """A claim, what the numbers say of it, and the numbers, λ by λ.

    It holds where it does at every λ, beyond the 95 % interval, and does not where it is contradicted at one.
    """

    claim: Claim
    outcome: Outcome
    evidence: str

    @property
    def text(self) -> str:
        """Return the evidence with what is subtracted; a dash without any."""
        return f"{self.claim.first} − {self.claim.second}. {self.evidence}" if self.evidence else "–"


def measured(store: Results, curve: Curve) -> Measured:
    """Return what is stored of a curve: of images where all of it is, of games each λ at which all are played."""
    if curve.first.kind == "games":
        found = {curve.first.threat.shown(eps): scores_at(store, curve, eps) for eps in curve.eps}
        return {strength: scores for strength, scores in found.items() if scores is not None}
    result = whole(store, curve)
    if result is None:
        return {}
    return {curve.first.threat.shown(e): (p, result.labels) for e, p in zip(curve.first.eps, result.probs, strict=True)}


def judge(claim: Claim, first: Measured, second: Measured, symbol: str = "λ") -> Judged:
    """Judge a claim about two curves.

    Accuracies are compared by the paired difference over images, calibration by the ends of both intervals, points of
    games by Welch's interval.
    """
    both = (strength for strength in claim.strengths if strength in first and strength in second)
    found = {strength: _gap(claim, first[strength], second[strength]) for strength in both}
    gaps = {strength: gap for strength, gap in found.items() if gap is not None}
    if not gaps:
        return Judged(claim, "not computed", "")
    left = [f"{symbol} = {strength:g} not computed" for strength in claim.strengths if strength not in gaps]
    evidence = "; ".join([*(f"{symbol} = {strength:g}: {_text(claim, gap)}" for strength, gap in gaps.items()), *left])
    outcomes = {_outcome(claim, gap) for gap in gaps.values()}
    if "does not hold" in outcomes:
        return Judged(claim, "does not hold", evidence)
    return Judged(claim, "holds" if outcomes == {"holds"} and not left else "unclear", evidence)


def _gap(claim: Claim, first: Any, second: Any) -> _Gap | None:
    if not isinstance(first, tuple):
        points = score_difference(first, second)
        return (points.estimate, points.low, points.high) if points else None
    if claim.relation == "better calibrated":
        a, b = (calibration(*one).ece for one in (first, second))
        return 100 * (b.estimate - a.estimate), 100 * (b.low - a.high), 100 * (b.high - a.low)
    gap = paired_difference(correct(*first), correct(*second))
    return 100 * gap.estimate, 100 * gap.low, 100 * gap.high


def _outcome(claim: Claim, gap: _Gap) -> Outcome:
    _, low, high = gap
    if claim.relation == "alike":
        if low >= -ALIKE and high <= ALIKE:
            return "holds"
        return "does not hold" if low > ALIKE or high < -ALIKE else "unclear"
    if claim.relation == "lower":
        low, high = -high, -low
    return "holds" if low > 0 else "does not hold" if high < 0 else "unclear"


def _text(claim: Claim, gap: _Gap) -> str:
    what = " of ECE" if claim.relation == "better calibrated" else ""
    estimate, low, high = (f"{points:+.1f}" for points in gap)
    return f"{estimate} points{what} [{low}, {high}]"

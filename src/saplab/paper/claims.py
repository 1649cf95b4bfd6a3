"""What is claimed of a figure's curves, judged by stored predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from saplab.metrics import Interval, correct, paired_difference
from saplab.metrics.calibration import calibration
from saplab.paper.study import Claim
from saplab.runs import CellResult
from saplab.runs.cell import Curve

Outcome = Literal["holds", "does not hold", "unclear", "not computed"]
_Table = tuple[NDArray[np.float32], NDArray[np.int64]]  # probabilities (N, C) and labels (N,)
ALIKE: Final = 0.05  # accuracies within 5 points of each other are alike


@dataclass(frozen=True)
class Judged:
    """A claim and what the numbers say of it.

    Args:
        claim: what is claimed.
        outcome: ``holds`` where it does at every λ of the claim, beyond the 95 % interval; ``does not hold`` where it
            is contradicted at one; else ``unclear``; ``not computed`` without the numbers.
        evidence: the numbers, λ by λ.
    """

    claim: Claim
    outcome: Outcome
    evidence: str


def judge(claim: Claim, curves: Mapping[str, Curve], results: Mapping[str, CellResult]) -> Judged:
    """Judge a claim.

    Args:
        claim: about two curves.
        curves, results: a figure's curves and their joined results, by label; a curve that is not finished is not in
            `results`.
    """
    if not {claim.first, claim.second} <= results.keys():
        return Judged(claim, "not computed", "")
    known = [s for s in claim.strengths if all(s in _strengths(curves[name]) for name in (claim.first, claim.second))]
    if not known:
        return Judged(claim, "not computed", "")
    calibrated = claim.relation == "better calibrated"
    compare = _calibration_gap if calibrated else _accuracy_gap
    gaps = [
        compare(*(_at(curves[name], results[name], strength) for name in (claim.first, claim.second)))
        for strength in known
    ]
    texts = [_text(strength, gap, calibrated) for strength, gap in zip(known, gaps, strict=True)]
    left = [f"λ = {strength:g} not computed" for strength in claim.strengths if strength not in known]
    return Judged(claim, together(claim, gaps), "; ".join(texts + left))


def together(claim: Claim, gaps: Sequence[Interval]) -> Outcome:
    """Judge a claim by the gaps at those of its λ that are known, at least one."""
    outcomes = [_outcome(claim, gap) for gap in gaps]
    if "does not hold" in outcomes:
        return "does not hold"
    everywhere = len(gaps) == len(claim.strengths) and all(outcome == "holds" for outcome in outcomes)
    return "holds" if everywhere else "unclear"


def _strengths(curve: Curve) -> Sequence[float]:
    return curve.cells[0].strengths


def _at(curve: Curve, result: CellResult, strength: float) -> _Table:
    return result.probs[_strengths(curve).index(strength)], result.labels


def _accuracy_gap(first: _Table, second: _Table) -> Interval:
    return paired_difference(correct(*first), correct(*second))


def _calibration_gap(first: _Table, second: _Table) -> Interval:
    """Bound the second's ECE minus the first's by the ends of both intervals."""
    a, b = calibration(*first).ece, calibration(*second).ece
    return Interval(b.estimate - a.estimate, b.low - a.high, b.high - a.low, a.n)


def _outcome(claim: Claim, gap: Interval) -> Outcome:
    if claim.relation == "alike":
        if gap.low >= -ALIKE and gap.high <= ALIKE:
            return "holds"
        return "does not hold" if gap.low > ALIKE or gap.high < -ALIKE else "unclear"
    low, high = (-gap.high, -gap.low) if claim.relation == "lower" else (gap.low, gap.high)
    return "holds" if low > 0 else "does not hold" if high < 0 else "unclear"


def _text(strength: float, gap: Interval, calibrated: bool) -> str:
    what = " of ECE" if calibrated else ""
    estimate, low, high = (f"{100 * share:+.1f}" for share in (gap.estimate, gap.low, gap.high))
    return f"λ = {strength:g}: {estimate} points{what} [{low}, {high}]"

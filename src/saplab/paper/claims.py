"""What is claimed of a figure's curves, judged by stored results.

What is enough, at a strength λ, for a claim of two curves, of which the first is a − b higher:

- ``higher``, ``lower``: a − b is above, below zero; where the claim says by how much, in % of b, above or below that.
- ``alike``, ``not higher``: it is within 5 points of zero, or at most 5 above.
- ``mostly lower``: below zero at more than half of the strengths.
- ``better calibrated``: the expected calibration error (ECE) of the first is lower.

Of a curve alone:

- ``near chance``: its accuracy is within 5 points of one divided by the number of classes.
- ``calibrated``, ``not calibrated``: its ECE is at most 10 points, or above.

A claim holds where its 95 % interval says so at every strength, for every pair of its curves. It does not hold where an
interval says the opposite somewhere; these are wider, so that all of a claim hold together (Bonferroni), and the number
of comparisons makes no claim fail by chance. Else it is unclear. Accuracies are compared by the paired difference over
images, ECEs by the ends of both intervals (which are not widened), points of games by Welch's interval, too narrow
where nearly all games end alike: a permutation test at its level must agree that points are higher or lower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from saplab.evaluation.findings import DIAGRAM_BINS, whole
from saplab.evaluation.rows import scores_at
from saplab.metrics import Interval, correct, mean_interval, paired_difference
from saplab.metrics.calibration import calibration
from saplab.metrics.scores import permutation_p, relative_change, score_difference
from saplab.paper.study import Claim
from saplab.runs import Curve, Results

Outcome = Literal["holds", "does not hold", "unclear", "not computed"]
ALIKE: Final = 5.0  # accuracies within 5 points of each other are alike
CALIBRATED: Final = 10.0  # an expected calibration error up to 10 points
_SURE: Final = 0.95
_SIDES: Final = ("higher", "lower", "mostly lower")  # of zero

Measured = Mapping[float, Any]  # by λ or ε: probabilities (N, C) and labels (N,) of images, or points of games
_Interval = tuple[float, float, float]  # in points: what was found, and its interval


@dataclass(frozen=True)
class Judged:
    """A claim, what the numbers say of it, and the numbers: pair by pair, strength by strength."""

    claim: Claim
    outcome: Outcome
    evidence: str

    @property
    def text(self) -> str:
        """Return the evidence; a dash without any."""
        return self.evidence or "–"


def measured(store: Results, curve: Curve) -> Measured:
    """Return what is stored of a curve: of images where all of it is, of games each λ at which all are played."""
    if curve.first.kind == "games":
        found = {curve.first.threat.shown(eps): scores_at(store, curve, eps) for eps in curve.eps}
        return {strength: scores for strength, scores in found.items() if scores is not None}
    result = whole(store, curve)
    if result is None:
        return {}
    return {curve.first.threat.shown(e): (p, result.labels) for e, p in zip(curve.first.eps, result.probs, strict=True)}


def judge(claim: Claim, found: Mapping[str, Measured], symbol: str = "λ") -> Judged:
    """Judge a claim by what was measured of each curve, by its label; curves that are missing were not computed."""
    outcomes: list[Outcome] = []
    evidence = []
    for first, second in claim.pairs:
        pair = _compared(claim, found.get(first, {}), found.get(second or first, {}))
        own = [outcome for _, outcome in pair.values()]
        outcomes += [_mostly(own)] if claim.relation == "mostly lower" else own
        told = "; ".join(f"{symbol} = {strength:g}{text}" for strength, (text, _) in pair.items())
        evidence.append(f"{first} − {second}. {told}" if second else f"{first}. {told}")
    if set(outcomes) == {"not computed"}:
        return Judged(claim, "not computed", "")
    all_hold, one_fails = set(outcomes) == {"holds"}, "does not hold" in outcomes
    return Judged(claim, "does not hold" if one_fails else "holds" if all_hold else "unclear", ". ".join(evidence))


def _compared(claim: Claim, first: Measured, second: Measured) -> dict[float, tuple[str, Outcome]]:
    """Compare two curves, of which the second is the first where it stands alone: evidence and outcome by strength."""
    together = 1 - (1 - _SURE) / (len(claim.pairs) * len(claim.strengths))
    pair: dict[float, tuple[str, Outcome]] = {}
    for strength in claim.strengths:
        pair[strength] = " not computed", "not computed"
        if strength in first and strength in second:
            pair[strength] = _judged_at(claim, strength, first[strength], second[strength], together)
    return pair


def _judged_at(claim: Claim, strength: float, first: Any, second: Any, together: float) -> tuple[str, Outcome]:
    """Judge one comparison: the evidence, and the outcome."""
    shown, wider = (_found(claim, strength, first, second, sure) for sure in (_SURE, together))
    if shown is None or wider is None:
        return ": games without a spread to judge by", "unclear"
    evidence = _change(claim.by[strength], first, second) if claim.by else _text(claim.relation, shown)
    outcome = _outcome(claim.relation, shown, wider)
    if outcome == "unclear" or claim.relation not in _SIDES or isinstance(first, tuple):
        return evidence, outcome
    p = permutation_p(first, _wanted(claim, strength, second))
    if p <= 1 - (_SURE if outcome == "holds" else together):
        return evidence, outcome
    return f"{evidence} (by a permutation test p = {p:.2g})", "unclear"


def _found(claim: Claim, strength: float, first: Any, second: Any, confidence: float) -> _Interval | None:
    """Return what the relation is about, in points: a difference, an accuracy above chance, or an ECE.

    Of games that must differ by so many percent it is the difference from so much.
    """
    relation = claim.relation
    if not isinstance(first, tuple):
        spread = score_difference(first, second) is not None  # which scaling could only round into being
        more = score_difference(first, _wanted(claim, strength, second), confidence) if spread else None
        return (more.estimate, more.low, more.high) if more else None
    if relation in ("calibrated", "not calibrated"):
        error = _error(first)
        return 100 * error.estimate, 100 * error.low, 100 * error.high
    if relation == "better calibrated":
        a, b = _error(first), _error(second)
        return 100 * (a.estimate - b.estimate), 100 * (a.low - b.high), 100 * (a.high - b.low)
    if relation == "near chance":
        share, chance = mean_interval(correct(*first), 1, confidence), 1 / first[0].shape[1]
        return 100 * (share.estimate - chance), 100 * (share.low - chance), 100 * (share.high - chance)
    gap = paired_difference(correct(*first), correct(*second), 1, confidence)
    return 100 * gap.estimate, 100 * gap.low, 100 * gap.high


def _wanted(claim: Claim, strength: float, second: Sequence[float]) -> list[float]:
    """Return the second's points changed by so many percent as the first's must differ from them."""
    return [(1 + claim.by.get(strength, 0.0) / 100) * points for points in second]


def _error(measured: tuple[Any, Any]) -> Interval:
    probs, labels = measured
    return calibration(probs, labels, DIAGRAM_BINS).ece


def _outcome(relation: str, shown: _Interval, wider: _Interval) -> Outcome:
    """Judge one strength: the 95 % interval says whether it holds, the wider one whether it does not."""
    least, most = {
        "higher": (0.0, None), "lower": (None, 0.0), "mostly lower": (None, 0.0), "better calibrated": (None, 0.0),
        "alike": (-ALIKE, ALIKE), "near chance": (-ALIKE, ALIKE), "not higher": (None, ALIKE),
        "calibrated": (None, CALIBRATED), "not calibrated": (CALIBRATED, None),
    }[relation]  # fmt: skip
    _, low, high = shown
    if (least is None or low > least) and (most is None or high < most):
        return "holds"
    _, low, high = wider
    below, above = least is not None and high < least, most is not None and low > most
    return "does not hold" if below or above else "unclear"


def _mostly(outcomes: list[Outcome]) -> Outcome:
    """Judge a curve by the outcomes at its strengths, of which more than half decide."""
    if "not computed" in outcomes:
        return "not computed" if set(outcomes) == {"not computed"} else "unclear"
    half = len(outcomes) / 2
    if outcomes.count("holds") > half:
        return "holds"
    return "does not hold" if outcomes.count("does not hold") >= half else "unclear"


def _change(by: float, first: Any, second: Any) -> str:
    """Write the relative change of points beside the one that is claimed, behind a strength."""
    change, least = relative_change(first, second), f"claimed {by:+.1f} % or {'more' if by > 0 else 'less'}"
    if change is None:
        return f": no bounded change in %, {least}"
    return f": {change.percent:+.1f} % [{change.low:+.1f}, {change.high:+.1f}], {least}"


def _text(relation: str, found: _Interval) -> str:
    """Write what was found, behind a strength."""
    if relation in ("calibrated", "not calibrated"):
        return ": ECE {:.1f} points [{:.1f}, {:.1f}]".format(*found)
    what = {"better calibrated": " of ECE", "near chance": " from chance"}.get(relation, "")
    return ": {:+.1f} points{} [{:+.1f}, {:+.1f}]".format(found[0], what, *found[1:])

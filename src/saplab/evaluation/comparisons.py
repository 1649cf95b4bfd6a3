"""Which attacks a verdict sets against each other, so that neither has the larger budget."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from saplab.evaluation.evidence import Evidence
from saplab.metrics.intervals import Interval, paired_difference

MARGIN: Final = 0.05
"""A comparison passes where its interval excludes a difference above 5 points; otherwise the images are too few."""

Fair = Callable[[Evidence, float, Evidence, float], bool]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two scores of the same images, of which the first should not be the higher.

    Args:
        first, first_strength: an attack and its λ.
        second, second_strength: the one that should not be stronger.
    """

    first: Evidence
    first_strength: float
    second: Evidence
    second_strength: float
    slack: float = MARGIN

    @property
    def expected(self) -> NDArray[np.float64]:
        """Give the scores (N,) that the first attack leaves."""
        return self.first.at(self.first_strength)

    @property
    def found(self) -> NDArray[np.float64]:
        """Give the scores (N,) that the second attack leaves."""
        return self.second.at(self.second_strength)

    def excess(self, confidence: float) -> Interval:
        """Estimate first minus second, paired by image: bad where it is above 0."""
        return paired_difference(self.expected, self.found, confidence=confidence)

    def text(self, confidence: float) -> str:
        """Write both accuracies and their difference in points."""
        points = self.excess(confidence)
        return (
            f"λ = {self.second_strength:g}: {self._side(self.first, self.first_strength, self.expected)}, "
            f"{self._side(self.second, self.second_strength, self.found)}; difference {100 * points.estimate:.1f} "
            f"points [{100 * points.low:.1f}, {100 * points.high:.1f}]"
        )

    def _side(self, evidence: Evidence, strength: float, scores: NDArray[np.float64]) -> str:
        where = "" if strength == self.second_strength else f" at λ = {strength:g}"
        return f"{evidence.label}{where} leaves {100 * scores.mean():.1f} %"


def white_box(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Give the attacks by the network's own gradient; those by identity backward only where there are no others."""
    own = [e for e in evidence if e.own_gradient]
    return [e for e in own if e.backward != "identity"] or own


def transfer(evidence: Sequence[Evidence]) -> list[Comparison]:
    """Set transfer attacks against the white-box ones with as many steps."""
    return _challenges([e for e in evidence if e.adversary == "transfer"], white_box(evidence), _as_many_steps)


def one_step(evidence: Sequence[Evidence]) -> list[Comparison]:
    """Set one-step attacks against iterative ones by the same gradient, with as many passes in all."""
    own = [e for e in evidence if e.own_gradient]
    return [
        comparison
        for challenger in own
        if challenger.attack == "fgsm"
        for comparison in _challenges([challenger], [e for e in own if e.backward == challenger.backward], _iterative)
    ]


def identity(evidence: Sequence[Evidence]) -> list[Comparison]:
    """Set identity backward (BPDA) against the defence's own gradient with no smaller budget."""
    own = [e for e in evidence if e.own_gradient]
    others = [e for e in own if e.backward in ("mask", "probability")]
    return _challenges([e for e in own if e.backward == "identity"], others, _as_large_budget)


def black_box(evidence: Sequence[Evidence]) -> list[Comparison]:
    """Set black-box attacks against iterative white-box ones."""
    return _challenges([e for e in evidence if e.attack == "square"], white_box(evidence), _more_than_a_step)


def noise(evidence: Sequence[Evidence]) -> list[Comparison]:
    """Set random noise against the white-box attacks."""
    return _challenges([e for e in evidence if e.attack == "noise"], white_box(evidence), lambda *_: True)


def samples(evidence: Sequence[Evidence]) -> list[Comparison]:
    """Set each attack's largest number of Monte Carlo samples against its second largest."""
    return _two_budgets(evidence, lambda e: (e.attack, e.backward, e.loss, e.steps), lambda e: e.samples)


def steps(evidence: Sequence[Evidence]) -> list[Comparison]:
    """Set each iterative attack's largest number of steps against its second largest."""
    iterative = [e for e in evidence if e.steps > 1]
    return _two_budgets(iterative, lambda e: (e.attack, e.backward, e.loss, e.samples), lambda e: e.steps)


def rises(evidence: Sequence[Evidence]) -> list[Comparison]:
    """Set each iterative attack at one strength against itself at the next smaller one.

    One-step attacks are left out: their step ends on the ball's surface, so that a longer one may overshoot.
    """
    return [
        Comparison(e, high, e, low)
        for e in evidence
        if e.adversary != "none" and e.steps > 1
        for low, high in zip(e.strengths, e.strengths[1:], strict=False)
    ]


def _challenges(challengers: Sequence[Evidence], rivals: Sequence[Evidence], fair: Fair) -> list[Comparison]:
    """Set each challenger, at each λ > 0, against the strongest fair rival of that or a smaller λ (nested balls)."""
    found = []
    for challenger in challengers:
        for strength in (s for s in challenger.strengths if s > 0):
            eligible = [
                (rival, smaller)
                for rival in rivals
                for smaller in rival.strengths
                if 0 < smaller <= strength and fair(rival, smaller, challenger, strength)
            ]
            if eligible:
                rival, smaller = min(eligible, key=lambda pair: (pair[0].at(pair[1]).mean(), -pair[1]))
                found.append(Comparison(rival, smaller, challenger, strength))
    return found


def _as_many_steps(rival: Evidence, smaller: float, challenger: Evidence, strength: float) -> bool:
    return rival.steps_at(smaller) >= challenger.steps_at(strength)


def _as_large_budget(rival: Evidence, smaller: float, challenger: Evidence, strength: float) -> bool:
    return rival.samples >= challenger.samples and _as_many_steps(rival, smaller, challenger, strength)


def _more_than_a_step(rival: Evidence, smaller: float, challenger: Evidence, strength: float) -> bool:
    return rival.steps_at(smaller) > 1


def _iterative(rival: Evidence, smaller: float, challenger: Evidence, strength: float) -> bool:
    passes = rival.steps_at(smaller) * rival.samples
    return rival.steps_at(smaller) > 1 and passes >= challenger.samples


def _two_budgets(
    evidence: Sequence[Evidence], kind: Callable[[Evidence], object], budget: Callable[[Evidence], int]
) -> list[Comparison]:
    """Set the largest budget of each kind of attack by the own gradient against the second largest.

    Of runs with the same budget, the one with most strengths speaks.
    """
    return [
        Comparison(smaller, strength, larger, strength)
        for group in _groups([e for e in evidence if e.own_gradient], kind)
        for smaller, larger in _largest_two(group, budget)
        for strength in larger.strengths
        if strength > 0 and strength in smaller.strengths
    ]


def _groups(evidence: Sequence[Evidence], kind: Callable[[Evidence], object]) -> Iterator[list[Evidence]]:
    kinds = dict.fromkeys(kind(e) for e in evidence)
    return ([e for e in evidence if kind(e) == one] for one in kinds)


def _largest_two(group: Sequence[Evidence], budget: Callable[[Evidence], int]) -> Iterator[tuple[Evidence, Evidence]]:
    by_budget = {budget(e): e for e in sorted(group, key=lambda e: len(e.strengths))}
    if len(by_budget) > 1:
        smaller, larger = sorted(by_budget)[-2:]
        yield by_budget[smaller], by_budget[larger]

"""Which attacks a verdict compares, so that the one that should be weaker never has the larger budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from saplab.evaluation.evidence import Case, Evidence
from saplab.metrics import Interval, paired_difference

ENOUGH: Final = 10  # steps in all tries, of an attack that a black box should not beat
MARGIN: Final = 0.05  # a comparison passes where its interval excludes a difference above 5 points


@dataclass(frozen=True, eq=False)
class Point:
    """An attack at one radius."""

    evidence: Evidence
    eps: float

    @property
    def scores(self) -> NDArray[np.float64]:
        """Return the scores (N,) that the attack leaves."""
        return self.evidence.at(self.eps)

    @property
    def steps(self) -> int:
        """Return the steps that the attack takes."""
        return self.evidence.steps_at(self.eps)

    def text(self, where: str = "") -> str:
        """Return the accuracy that the attack leaves, in words."""
        return f"{self.evidence.label}{where} leaves {100 * self.scores.mean():.1f} %"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two attacks on the same images, of which the second should not be the stronger."""

    first: Point
    second: Point
    slack: float = MARGIN  # how far above 0 the interval of the difference may reach

    def excess(self, confidence: float, times: int = 1) -> Interval:
        """Estimate first minus second, paired by image, of `times` as many like these: bad where it is above 0."""
        first, second = (np.tile(point.scores, times) for point in (self.first, self.second))
        return paired_difference(first, second, confidence=confidence)

    @property
    def share(self) -> float:
        """Return how much of what the first attack leaves the second does; 1 where the first leaves nothing."""
        first = float(self.first.scores.mean())
        return float(self.second.scores.mean()) / first if first else 1.0

    def text(self, confidence: float) -> str:
        """Return both accuracies and their difference in points, in words."""
        points = self.excess(confidence)
        threat = self.second.evidence.threat
        where = "" if self.first.eps == self.second.eps else f" at {threat.text(self.first.eps)}"
        return (
            f"{threat.text(self.second.eps)}: {self.first.text(where)}, {self.second.text()}; difference "
            f"{100 * points.estimate:.1f} points [{100 * points.low:.1f}, {100 * points.high:.1f}]"
        )


def transfer(case: Case) -> list[Comparison]:
    """Compare attacks made on another network with white-box ones of as many steps."""
    challengers = [e for e in case.evidence if e.transferred]
    return _challenges(challengers, case.white_box, _as_many_steps)


def one_step(case: Case) -> list[Comparison]:
    """Compare one-step attacks with iterative ones by the same gradient, with as many passes in all."""
    return _challenges([e for e in case.own if e.one_step], case.own, _same_rule_in_steps)


def identity(case: Case) -> list[Comparison]:
    """Compare identity backward (BPDA) with the defence's own gradient of no smaller budget, of the same kind."""
    straight = [e for e in case.own if e.backward == "identity"]
    plain = [e for e in case.own if e.backward not in ("identity", "relaxed", "")]
    return _of_one_kind(straight, plain)


def relaxed(case: Case) -> list[Comparison]:
    """Compare relaxed backward, where it is not flat itself, with the plain gradient, as `identity` does."""
    smooth = [e for e in case.own if e.backward == "relaxed" and not (e.blind.size and e.blind.mean() > MARGIN)]
    return _of_one_kind(smooth, [e for e in case.own if e.backward != "relaxed"])


def loss(case: Case) -> list[Comparison]:
    """Compare other losses with cross-entropy, by the same backward rule and no smaller budget."""
    usual = [e for e in case.own if e.loss == "cross-entropy"]
    others = [e for e in case.own if e.loss not in ("cross-entropy", "")]
    return _challenges(others, usual, _same_rule_as_large)


def black_box(case: Case) -> list[Comparison]:
    """Compare black-box attacks with white-box ones of `ENOUGH` steps: of fewer, more may get as far."""
    challengers = [e for e in case.evidence if e.black_box]
    return _challenges(challengers, case.white_box, lambda rival, _: rival.steps * rival.evidence.tries >= ENOUGH)


def noise(case: Case) -> list[Comparison]:
    """Compare random noise with the white-box attacks."""
    return _challenges([e for e in case.evidence if e.noise], case.white_box, lambda *_: True)


def samples(case: Case) -> list[Comparison]:
    """Compare each attack's largest number of Monte Carlo samples with its second largest."""
    return _two_budgets(case.own, lambda e: (*_kind(e), e.steps), lambda e, _: e.samples)


def averaging(case: Case) -> list[Comparison]:
    """Compare attacks that average over their steps too, by momentum, with iterative ones of fewer samples a step."""
    iterative = [e for e in case.own if e.iterative]
    over_steps = [e for e in iterative if _momentum(e)]
    others = [e for e in iterative if not _momentum(e)]
    return _challenges(over_steps, others, _same_rule_of_fewer)


def steps(case: Case) -> list[Comparison]:
    """Compare each iterative attack's largest number of steps with its second largest."""
    iterative = [e for e in case.own if e.iterative]
    return _two_budgets(iterative, lambda e: (*_kind(e), e.samples), lambda e, eps: e.steps_at(eps))


def rises(case: Case) -> list[Comparison]:
    """Compare each iterative attack with itself at the next smaller radius; a single step may overshoot."""
    return [
        Comparison(Point(e, high), Point(e, low))
        for e in case.evidence
        if e.own_gradient and e.iterative
        for low, high in pairwise(e.eps)
    ]


def _challenges(
    challengers: Sequence[Evidence], rivals: Sequence[Evidence], fair: Callable[[Point, Point], bool]
) -> list[Comparison]:
    """Compare each challenger, at each radius, with the strongest fair rival of that or a smaller radius."""
    found = []
    for challenger in (Point(e, eps) for e in challengers for eps in e.eps if eps > 0):
        points = (Point(rival, eps) for rival in rivals for eps in rival.eps if 0 < eps <= challenger.eps)
        eligible = [point for point in points if fair(point, challenger)]
        if eligible:
            found.append(Comparison(min(eligible, key=lambda point: (point.scores.mean(), -point.eps)), challenger))
    return found


def _of_one_kind(challengers: Sequence[Evidence], rivals: Sequence[Evidence]) -> list[Comparison]:
    """Compare attacks that differ in the backward rule alone; in more only where there is no such pair.

    Another algorithm or loss may find more by itself, which tells nothing of the gradient.
    """

    def alike(rival: Point, challenger: Point) -> bool:
        one, other = rival.evidence, challenger.evidence
        same = type(one.attack) is type(other.attack) and one.loss == other.loss
        return same and _as_large_budget(rival, challenger)

    return _challenges(challengers, rivals, alike) or _challenges(challengers, rivals, _as_large_budget)


def _kind(evidence: Evidence) -> tuple[object, ...]:
    """Return what attacks have in common that differ in samples and steps alone."""
    return type(evidence.attack), evidence.backward, evidence.loss, evidence.tries


def _as_large_budget(rival: Point, challenger: Point) -> bool:
    return rival.evidence.samples >= challenger.evidence.samples and _as_many_steps(rival, challenger)


def _as_many_steps(rival: Point, challenger: Point) -> bool:
    """Compare the steps of one try, and of all of them together."""
    tries = rival.steps * rival.evidence.tries >= challenger.steps * challenger.evidence.tries
    return rival.steps >= challenger.steps and tries


def _same_rule_as_large(rival: Point, challenger: Point) -> bool:
    return rival.evidence.backward == challenger.evidence.backward and _as_large_budget(rival, challenger)


def _same_rule_of_fewer(rival: Point, challenger: Point) -> bool:
    one, other = rival.evidence, challenger.evidence
    return one.backward == other.backward and one.samples < other.samples


def _momentum(evidence: Evidence) -> float:
    return float(getattr(evidence.attack, "momentum", 0.0))


def _same_rule_in_steps(rival: Point, challenger: Point) -> bool:
    passes = rival.steps * rival.evidence.samples
    same = (rival.evidence.backward, rival.evidence.loss) == (challenger.evidence.backward, challenger.evidence.loss)
    return same and rival.steps > 1 and passes >= challenger.evidence.samples


def _two_budgets(
    own: Sequence[Evidence], kind: Callable[[Evidence], object], budget_at: Callable[[Evidence, float], int]
) -> list[Comparison]:
    """Compare the two largest budgets of each kind of attack; of runs with the same one, that with most radii."""

    def budget(evidence: Evidence) -> int:
        return budget_at(evidence, evidence.eps[-1])

    found: list[Comparison] = []
    for one in dict.fromkeys(map(kind, own)):
        by_budget = {budget(e): e for e in sorted(own, key=lambda e: len(e.eps)) if kind(e) == one}
        for few, many in list(pairwise(sorted(by_budget)))[-1:]:
            smaller, larger = by_budget[few], by_budget[many]
            both = (eps for eps in larger.eps if eps > 0 and eps in smaller.eps)
            shared = (eps for eps in both if budget_at(larger, eps) > budget_at(smaller, eps))
            found += [Comparison(Point(smaller, eps), Point(larger, eps)) for eps in shared]
    return found

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import saplab
from saplab.attacks import APGD, FGSM, PGD, Attack, Cost, GradientAttack, Iterative, MonteCarlo, RandomNoise, Square
from saplab.evaluation.evidence import Evidence

EPS = (0.5 / 255, 2 / 255, 4 / 255)


def evidence(attack, adversary="own", share=0.5, has_rules=True, images=400):
    """The first share of the images is right at each radius."""
    right = np.tile(np.arange(images) < share * images, (len(EPS), 1)).astype(float)
    return Evidence(type(attack).__name__, attack, adversary, EPS, right, has_rules)


def facts(found):
    names = ("own_gradient", "transferred", "black_box", "noise", "iterative", "one_step")
    return {name for name in names if getattr(found, name)}


TEN = MonteCarlo(10, "identity", loss="dlr")
OWN, OTHER = "own_gradient", "transferred"
TABLE = [
    # attack, whose gradient, rules: facts, backward, loss, samples, steps at each radius
    (RandomNoise(), "none", True, {"noise"}, "", "", 1, (1, 1, 1)),
    (RandomNoise(), "own", True, {"noise"}, "", "", 1, (1, 1, 1)),
    (FGSM(), "own", True, {OWN, "one_step"}, "mask", "cross-entropy", 1, (1, 1, 1)),
    (FGSM(TEN), "own", True, {OWN, "one_step"}, "identity", "dlr", 10, (1, 1, 1)),
    (FGSM(TEN), "own", False, {OWN, "one_step"}, "", "dlr", 10, (1, 1, 1)),
    (FGSM(TEN), "transfer", True, {OTHER}, "", "dlr", 10, (1, 1, 1)),
    (Iterative(gradient=TEN), "own", True, {OWN, "iterative"}, "identity", "dlr", 10, (1, 2, 4)),
    (Iterative(0.5), "transfer", True, {OTHER, "iterative"}, "", "cross-entropy", 1, (1, 4, 8)),
    (Iterative(4), "own", True, {OWN}, "mask", "cross-entropy", 1, (1, 1, 1)),
    (PGD(TEN, 20), "own", True, {OWN, "iterative"}, "identity", "dlr", 10, (20, 20, 20)),
    (PGD(steps=1), "own", False, {OWN, "one_step"}, "", "cross-entropy", 1, (1, 1, 1)),
    (APGD(TEN, 40), "transfer", False, {OTHER, "iterative"}, "", "dlr", 10, (40, 40, 40)),
    (Square(100, 5), "own", True, {"black_box", "iterative"}, "", "", 5, (100, 100, 100)),
    (Square(100, 5), "none", True, {"black_box", "iterative"}, "", "", 5, (100, 100, 100)),
    (Square(100, 5), "transfer", True, {"black_box", "iterative"}, "", "", 5, (100, 100, 100)),
]


@pytest.mark.parametrize(("attack", "adversary", "rules", "expected", "backward", "loss", "samples", "steps"), TABLE)
def test_what_evidence_reads_off_the_attack(attack, adversary, rules, expected, backward, loss, samples, steps):
    found = evidence(attack, adversary, has_rules=rules)
    assert facts(found) == expected
    assert (found.backward, found.loss, found.samples) == (backward, loss, samples)
    assert (tuple(map(found.steps_at, EPS)), found.steps) == (steps, steps[-1])


# Attacks from outside the package


class Outside(Attack):
    def ascending(self, problem, radii):
        raise NotImplementedError

    def cost(self, eps):
        return Cost(0, 0)


@dataclass(frozen=True)
class Gaussian(Outside):
    knowledge = "nothing"
    title = "Gaussian noise"


@dataclass(frozen=True)
class Boundary(Outside):
    knowledge = "scores"
    queries: int = 50

    def steps_at(self, eps):
        return self.queries


@dataclass(frozen=True)
class Jump(Outside):
    title = "the jump"


@dataclass(frozen=True)
class Climb(GradientAttack, Outside):
    title = "the climb"
    gradient: MonteCarlo = field(default_factory=lambda: MonteCarlo(4))
    steps: int = 10

    def steps_at(self, eps):
        return self.steps


@pytest.mark.parametrize(
    ("attack", "expected", "backward", "samples", "steps"),
    [
        (Gaussian(), {"noise"}, "", 1, 1),
        (Boundary(), {"black_box", "iterative"}, "", 1, 50),
        (Jump(), {OWN, "one_step"}, "", 1, 1),
        (Climb(), {OWN, "iterative"}, "mask", 4, 10),
    ],
)
def test_attacks_from_outside_the_package(attack, expected, backward, samples, steps):
    found = evidence(attack)
    assert facts(found) == expected
    assert (found.backward, found.samples, found.steps) == (backward, samples, steps)


@pytest.mark.parametrize(
    ("key", "attack", "adversary"),
    [
        ("noise", Gaussian(), "own"),
        ("black-box", Boundary(), "own"),
        ("transfer", Jump(), "transfer"),
        ("identity", Climb(MonteCarlo(4, "identity")), "own"),
        ("one-step", Climb(steps=1), "own"),
    ],
)
def test_an_attack_from_outside_is_judged_by_what_it_does(key, attack, adversary):
    found = saplab.verdict([evidence(Climb()), evidence(attack, adversary, share=0.2)])
    assert [check.key for check in found.checks if check.outcome == "failed"] == [key]
    assert found.masked is True
    assert found.sentence.endswith(
        "; 30.0 points of the 50.0 % under the climb with mask backward are due to a masked gradient."
    )
    assert {check.key: check.how.attack for check in found.checks if check.key == "steps"} == {
        "steps": Climb(steps=50).spec
    }


def test_an_attack_from_outside_alone():
    found = saplab.verdict([evidence(Boundary())])
    assert found.sentence.endswith(
        "; Boundary alone cannot tell robustness from a masked gradient: more attacks are needed."
    )
    jump = saplab.verdict([evidence(Jump())])
    assert {check.how.attack for check in jump.checks if check.key in ("samples", "identity", "steps")} == {"adaptive"}


# Evidence of a user's own predictions


LABELS = np.array([0, 1, 1])
PROBS = np.array([[[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]], [[0.4, 0.6], [0.5, 0.5], [0.1, 0.9]]])
"""Right at the first radius: all. At the second: the third image; the first of equal classes is predicted."""


def test_evidence_of_predictions():
    found = Evidence.of(PGD(TEN), (2 / 255, 8 / 255), PROBS, LABELS, has_rules=True)
    np.testing.assert_array_equal(found.right, [[1, 1, 1], [0, 0, 1]])
    assert (found.label, found.eps, found.adversary, found.halves) == (
        "PGD-20 DLR ×10 identity", (2 / 255, 8 / 255), "own", None,
    )  # fmt: skip
    assert Evidence.of(Boundary(), (0.1, 0.2), PROBS, LABELS).label == "Boundary"
    assert Evidence.of(PGD(), (0.1, 0.2), PROBS, LABELS, label="mine", adversary="transfer").transferred


def test_radii_may_come_in_any_order():
    halves = np.stack([PROBS, 1 - PROBS])
    found = Evidence.of(PGD(), (8 / 255, 2 / 255), PROBS[::-1], LABELS, halves=halves[:, ::-1])
    assert found.eps == (2 / 255, 8 / 255)
    np.testing.assert_array_equal(found.right, [[1, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(found.halves, halves)


def test_tensors_are_judged():
    evidence = Evidence.of(PGD(), [8 / 255, 2 / 255], torch.from_numpy(PROBS), torch.from_numpy(LABELS))
    found = saplab.verdict([evidence], labels=torch.from_numpy(LABELS))
    assert [bound.accuracy.estimate for bound in found.robust] == [pytest.approx(1 / 3)] * 2  # the balls are nested
    assert found.headline.strength == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probs": PROBS[0]}, r"`probs` must have the shape \(2, N, C\), one row a radius, got \(3, 2\)"),
        ({"eps": (0.1,)}, r"`probs` must have the shape \(1, N, C\)"),
        ({"probs": PROBS + 0.2}, r"`probs` must be in \[0, 1\]"),
        ({"labels": [0, 1]}, r"`labels` must have the shape \(3,\), got \(2,\)"),
        ({"labels": [0, 1, 2]}, r"`labels` must be in 0\.\.1"),
        ({"labels": [0.0, 1.0, 1.0]}, "`labels` must be whole numbers"),
        ({"eps": (0.1, 0.1)}, r"`eps` must ascend from 0 or more, got \(0.1, 0.1\)"),
        ({"eps": (-0.1, 0.1)}, "`eps` must ascend from 0 or more"),
        ({"halves": PROBS}, r"`halves` must have the shape \(2, 2, 3, 2\), got \(2, 3, 2\)"),
        ({"adversary": "self"}, "`adversary` must be one of"),
        ({"gradient_norm": np.ones(2)}, r"`gradient_norm` must be \(3,\) numbers"),
    ],
)
def test_bad_predictions_are_refused(change, message):
    given = {"attack": PGD(), "eps": (0.1, 0.2), "probs": PROBS, "labels": LABELS}
    with pytest.raises(ValueError, match=message):
        Evidence.of(**(given | change))

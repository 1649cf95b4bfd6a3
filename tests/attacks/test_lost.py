"""Who is lost: the level over all looks of an attack, the power, and which passes decide."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab import PGD, MonteCarlo
from saplab.attacks import Problem, Watch
from saplab.attacks.lost import ERROR, PASSES, ROUND, cost_of, reaches

Law = Callable[[tuple[int, ...], torch.Generator], Tensor]


def two_points(chance: float, low: float, high: float) -> Law:
    return lambda shape, rng: torch.where(torch.rand(shape, generator=rng) < chance, high, low).double()


LAWS: dict[str, Law] = {  # of the lead in one pass, whose mean is 0: the prediction is as good as wrong, and not lost
    "all or nothing": two_points(0.5, -1.0, 1.0),
    "rarely right, then surely": two_points(0.9, -0.9, 0.1),
    "rarely wrong, then surely": two_points(0.1, -0.1, 0.9),
    "uniform": lambda shape, rng: 2 * torch.rand(shape, generator=rng).double() - 1,
    "normal, cut off": lambda shape, rng: (0.3 * torch.randn(shape, generator=rng).double()).clamp(-1, 1),
}


def ever_lost(law: Law, samples: int, looks: int, people: int, seed: int = 0) -> float:
    """Return the share of examples that some look calls lost, each look at another point with fresh passes."""
    rng, net = torch.Generator().manual_seed(seed), nn.Flatten()
    watch = Watch.over(Problem.of(net, torch.zeros(people, 1, 1, 1), torch.zeros(people, dtype=torch.long)))
    found = torch.zeros(people, dtype=torch.bool)
    for _ in range(looks):
        doubtful = law((samples, people), rng).mean(0) > 0
        found |= watch.answer(doubtful, samples, lambda rows, _, passes: law((passes, len(rows)), rng))
    return float(found.double().mean())


# --- the level -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("samples", "looks"), [(2, 1), (5, 20), (2, 100)])
def test_what_is_right_is_hardly_ever_called_lost_in_many_looks(law: str, samples: int, looks: int) -> None:
    """The share of 10,000 is within 4 standard errors of the level, at most; Student's bound gave 2 to 97 %."""
    people = 10_000
    assert ever_lost(LAWS[law], samples, looks, people) <= ERROR + 4 * math.sqrt(ERROR / people)


@pytest.mark.parametrize("chance", [0.5, 0.6, 0.8])
def test_fortune_is_fair_where_the_prediction_is_even(chance: float) -> None:
    """By enumeration: the chance that the fortune reaches w in the first round is at most 1 / w."""
    count = 2**ROUND
    outcomes = torch.tensor([[1.0 if k >> i & 1 else -1.0 for k in range(count)] for i in range(ROUND)]).double()
    first = torch.where(outcomes > 0, (1 - chance) / chance, -1.0)
    weight = torch.where(outcomes > 0, chance, 1 - chance).prod(0)
    for wanted in (1.5, 2.0, 3.0):
        found = reaches(torch.full((count,), wanted).double(), lambda rows, done, passes: first[:, rows] * (done == 0))
        share = float((weight * found).sum())
        assert 0 < share <= 1 / wanted + 1e-12


# --- the power -------------------------------------------------------------------------------------------------------


def test_what_every_pass_gets_wrong_is_lost_by_the_first_question() -> None:
    assert ever_lost(lambda shape, rng: torch.ones(shape).double(), 2, 1, 10) == 1
    assert ever_lost(two_points(0.99, -1.0, 1.0), 5, 1, 10_000) > 0.9
    assert ever_lost(two_points(0.9, -1.0, 1.0), 5, 20, 10_000) > 0.9


def test_a_question_ends_where_it_cannot_be_answered_any_more() -> None:
    """Four of six passes right leave nothing to hope for; all wrong need no third round."""
    asked: list[tuple[int, int]] = []

    def leads(rows: Tensor, done: int, passes: int) -> Tensor:
        asked.append((done, len(rows)))
        path = torch.ones(passes, 2).double()
        path[:4, 1] = -1.0
        return path[:, rows]

    assert reaches(torch.full((2,), 2 / ERROR).double(), leads).tolist() == [True, False]
    assert asked == [(0, 2), (6, 1)]


def test_questions_wait_until_twice_as_many_passes_were_seen() -> None:
    """... which bounds how many there are, and so their cost."""
    problem = Problem.of(nn.Flatten(), torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.long))
    watch, asked = Watch.over(problem), []
    for look in range(1, 101):

        def leads(rows: Tensor, done: int, passes: int, look: int = look) -> Tensor:
            asked.append(look)
            return -torch.ones(passes, len(rows)).double()

        watch.answer(torch.tensor([True]), 5, leads)
    assert asked == [1, 2, 4, 8, 16, 32, 64]
    assert cost_of(MonteCarlo(5), 100).forward == 7 * PASSES
    assert cost_of(MonteCarlo(1), 100).forward == 0


# --- which passes decide ---------------------------------------------------------------------------------------------


def test_one_pass_of_a_random_network_leaves_all_doubt(net: Any, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        net[-1].weight.mul_(30)  # so that it is sure of what it says
    problem = Problem.of(saplab.defend(net, saplab.SAP(1000)), images, (labels + 1) % 5)
    one = MonteCarlo(1)
    assert (one.score(problem).lead > 0.9).any()
    assert not Watch.over(problem).lost(problem, one, one.score(problem), 0).any()


def test_the_lost_are_misclassified_by_many_passes(net: Any, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        net[-1].weight.mul_(30)  # so that passes are sure of what they say
    sap, wrong = saplab.defend(net, saplab.SAP(1000)), (labels + 1) % 5
    problem, two = Problem.of(sap, images, wrong), MonteCarlo(2)
    gone = Watch.over(problem).lost(problem, two, two.score(problem), 0)
    assert gone.any()
    truth = saplab.predict(sap, images, 1000, seed=9)
    assert (truth.argmax(1) != wrong)[gone].all()


def test_no_question_sees_the_passes_of_an_estimate_or_of_another(
    sap: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[range, list[int]]] = []
    original = MonteCarlo.leads

    def asked(self: MonteCarlo, problem: Problem, rivals: Tensor, first_pass: int, passes: int) -> Any:
        seen.append((range(first_pass, first_pass + passes), problem.examples.tolist()))
        return original(self, problem, rivals, first_pass, passes)

    monkeypatch.setattr(MonteCarlo, "leads", asked)
    attack = PGD(MonteCarlo(3), steps=6, restarts=2, targets=2)
    list(attack.curve(sap, images, labels, (0.01, 0.05, 0.2)))
    used = [(number, example) for numbers, examples in seen for number in numbers for example in examples]
    assert len(used) == len(set(used)) > 0
    assert min(number for number, _ in used) >= 2**31


def test_leads_are_those_of_single_passes(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    rivals = (labels + 2) % 5
    problem = Problem.of(sap, images, labels, seed=3)
    leads = MonteCarlo(1).leads(problem, rivals, 7, 4)
    for k in range(4):
        probs = MonteCarlo(1).score(problem, 7 + k).probs
        own, theirs = (probs.gather(1, classes[:, None])[:, 0] for classes in (labels, rivals))
        torch.testing.assert_close(leads[k], theirs - own)

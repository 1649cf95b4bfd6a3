"""Of several tries the one that succeeds is kept, by what fresh passes say of the averaged prediction."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.problem import Problem
from saplab.attacks.search import SearchAttack

LABELS = torch.zeros(6, dtype=torch.int64)


@dataclass(frozen=True)
class Given(SearchAttack):
    """Tries that end at given pixel values."""

    ends: tuple[float, ...] = ()
    samples: int = 1
    stop_when_lost: bool = True

    @property
    def restarts(self) -> int:
        return len(self.ends)

    @property
    def _blocks(self) -> int:
        return 1

    @property
    def _block_cost(self) -> Cost:
        return Cost(0, 0)

    def steps_at(self, eps: float) -> int:
        return 1

    def _asking(self, random: bool) -> MonteCarlo:
        return MonteCarlo(self.samples)

    def _climb(self, problem: Problem, eps: float, number: int, first_block: int, watch: object) -> Tensor:
        return torch.full_like(problem.images, self.ends[number])


class Probabilities(nn.Module):
    """Returns the class probabilities of the nearest of some pixel values, as logits."""

    def __init__(self, table: dict[float, tuple[float, ...]]) -> None:
        super().__init__()
        self.places, self.rows = torch.tensor(list(table)), torch.tensor(list(table.values()))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows[(x.mean((1, 2, 3))[:, None] - self.places).abs().argmin(1)].log()


class Moody(Probabilities):
    """At dark images a share of the passes is sure of another class, and the others are right."""

    def __init__(self, table: dict[float, tuple[float, ...]], share: float) -> None:
        super().__init__(table)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        bad = (torch.rand(len(x)) < self.share) & (x.mean((1, 2, 3)) < 0.3)
        return torch.where(bad[:, None], torch.tensor([-1000.0, 0.0, -1000.0]), super().forward(x))


TABLE = {0.5: (0.9, 0.05, 0.05), 0.2: (0.35, 0.33, 0.32), 0.8: (0.45, 0.55, 1e-6)}


def found(attack: Given, model: nn.Module, targets: Tensor | None = None) -> float:
    images = torch.full((len(LABELS), 1, 2, 2), 0.5)
    points = attack(model.eval(), images, LABELS, eps=0.5, seed=3, targets=targets)
    assert (points == points[0, 0, 0, 0]).all()
    return round(float(points[0, 0, 0, 0]), 6)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("ends", [(0.2, 0.8), (0.8, 0.2)])
def test_a_wrong_point_is_kept_before_one_of_higher_loss_that_is_right(ends: tuple[float, ...], stop: bool) -> None:
    assert found(Given(ends=ends, stop_when_lost=stop), Probabilities(TABLE)) == 0.8


def test_of_points_that_are_right_the_one_of_highest_loss_is_kept() -> None:
    assert found(Given(ends=(0.5, 0.2, 0.5)), Probabilities(TABLE)) == 0.2


@pytest.mark.parametrize("ends", [(0.2, 0.8), (0.8, 0.2)])
def test_few_passes_of_an_enormous_loss_do_not_outweigh_a_majority(ends: tuple[float, ...]) -> None:
    """At 0.2 the mean cross-entropy is about 200, and the averaged prediction is right."""
    table = {0.5: (0.9, 0.05, 0.05), 0.2: (0.98, 0.01, 0.01), 0.8: (0.3, 0.69, 0.01)}
    assert found(Given(ends=ends, samples=60, stop_when_lost=False), Moody(table, 0.2)) == 0.8


@pytest.mark.parametrize("ends", [(0.2, 0.8), (0.8, 0.2)])
def test_of_wrong_points_the_one_farthest_from_right_is_kept_on_average(ends: tuple[float, ...]) -> None:
    """At 0.2 the averaged prediction is wrong by little, and the mean cross-entropy about 700."""
    table = {0.5: (0.9, 0.05, 0.05), 0.2: (0.98, 0.01, 0.01), 0.8: (0.05, 0.94, 0.01)}
    assert found(Given(ends=ends, samples=60, stop_when_lost=False), Moody(table, 0.7)) == 0.8


@pytest.mark.parametrize("ends", [(0.2, 0.8), (0.8, 0.2)])
def test_a_try_that_reaches_its_target_is_kept(ends: tuple[float, ...]) -> None:
    """At 0.2 the target is likelier than at 0.8, but yet another class is likelier still."""
    table = {0.5: (0.9, 0.05, 0.05), 0.2: (0.02, 0.53, 0.45), 0.8: (0.29, 0.3, 0.41)}
    assert found(Given(ends=ends), Probabilities(table), targets=LABELS + 2) == 0.8

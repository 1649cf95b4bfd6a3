"""An agent as a player: its draws are its own in each step, whether examples draw for themselves or share a draw."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.rl.adversary import Adversary
from saplab.rl.player import STEPS, Player


@pytest.fixture(scope="module")
def agent() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(12), nn.Flatten(), nn.Linear(196, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


@pytest.fixture(scope="module")
def stacks() -> Tensor:
    return torch.rand(3, 4, 84, 84, generator=torch.Generator().manual_seed(1))


def numbers(step: int, episodes: tuple[int, ...] = (0, 4, 7)) -> Tensor:
    return torch.tensor([episode * STEPS + step for episode in episodes])


DEFENSES = [saplab.SAP(50), saplab.RandomNoisyWeights(0.1)]
each = pytest.mark.parametrize("defense", DEFENSES, ids=lambda one: one.spec)


@each
def test_every_step_has_draws_of_its_own(defense: saplab.Defense, agent: nn.Module, stacks: Tensor) -> None:
    player = Player(saplab.defend(agent, defense), passes=3)
    steps = [player.values(stacks, numbers(step)) for step in (0, 1, 2)]
    assert all(not torch.isclose(a, b).all(1).any() for a, b in pairwise(steps))
    assert torch.equal(player.values(stacks, numbers(1)), steps[1])
    alone = player.values(stacks[1:2], numbers(1)[1:2])
    torch.testing.assert_close(alone, steps[1][1:2])


@each
def test_every_step_is_attacked_with_draws_of_its_own(
    defense: saplab.Defense, agent: nn.Module, stacks: Tensor
) -> None:
    network = saplab.defend(agent, defense)
    seen = []

    class Watching(saplab.FGSM):
        def ascending(self, problem, radii):
            seen.append(self.gradient.estimate(problem).gradient)
            return super().ascending(problem, radii)

    adversary = Adversary(network, Watching(saplab.MonteCarlo(2)), 0.1, samples=2)
    for step in (0, 1, 1):
        adversary.perturb(stacks, numbers(step))
    assert not torch.isclose(seen[0], seen[1], rtol=1e-3).all()
    assert torch.equal(seen[1], seen[2])


def test_passes_of_neighbouring_steps_do_not_overlap(agent: nn.Module, stacks: Tensor) -> None:
    """Three passes of step 1 are none of those of step 0."""
    network = saplab.defend(agent, saplab.RandomNoisyWeights(0.1))
    single = Player(network, passes=1)
    first = torch.stack([single.values(stacks, numbers(step)) for step in range(6)])
    several = [Player(network, passes=3).values(stacks, numbers(step)) for step in (0, 1)]
    for k, mean in enumerate(several):
        torch.testing.assert_close(mean, first[3 * k : 3 * k + 3].mean(0))

"""What holds for every attack of many steps: ball and cube, costs, draws of its own, nothing changed, bad input."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import saplab
from saplab import APGD, PGD, Iterative, MonteCarlo, Square
from saplab.defenses.stochastic import trust
from saplab.models.initialise import initialise

PIXEL = 1 / 255


def small_net() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    return initialise(net, 0)


class Counting(nn.Module):
    """A network that counts the images it sees, forward and backward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forward_images, self.backward_images = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forward_images += len(x)
        if x.requires_grad:
            x = x * 1.0
            x.register_hook(self._count)
        return self.net(x)

    def _count(self, gradient: Tensor) -> None:
        self.backward_images += len(gradient)


ATTACKS = [
    Iterative(1.0, MonteCarlo(2)),
    PGD(MonteCarlo(2), steps=4),
    PGD(MonteCarlo(2, average="logits", loss="margin"), steps=3, restarts=2, momentum=1.0),
    PGD(MonteCarlo(2, loss="dlr"), steps=3, targets=2),
    APGD(MonteCarlo(2), steps=5, restarts=2),
    APGD(MonteCarlo(2, loss="dlr"), steps=4, targets=2),
    Square(queries=6, passes=2),
]


@settings(derandomize=True, max_examples=12, deadline=None)
@given(st.sampled_from(ATTACKS), st.floats(0, 1), st.integers(0, 2**31), st.booleans())
def test_adversaries_stay_in_ball_and_cube(attack: Any, eps: float, seed: int, stop: bool) -> None:
    sap = saplab.defend(small_net(), saplab.SAP(60))
    images = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).mul(1.5).clamp(max=1)
    attack = replace(attack, stop_when_lost=stop, **({"step": 32.0} if isinstance(attack, Iterative) else {}))
    points = attack(sap, images, torch.tensor([0, 1, 2, 3]), eps=eps, seed=seed)
    assert (points - images).abs().max() <= eps + 1e-6
    assert points.min() >= 0
    assert points.max() <= 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_cost_bounds_the_passes_and_is_reached(attack: Any, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    eps = (0.0, PIXEL, 3 * PIXEL)
    counted: Any = trust(saplab.defend(Counting(net), saplab.SAP(60)))
    for _ in replace(attack, stop_when_lost=False).curve(counted, images, labels, eps):
        pass
    cost = replace(attack, stop_when_lost=False).cost(eps)
    assert (counted.forward_images, counted.backward_images) == (9 * cost.forward, 9 * cost.backward)
    stopping: Any = trust(Counting(net))
    for _ in attack.curve(stopping, images, labels, eps):
        pass
    bound = attack.cost(eps)
    assert 0 < stopping.forward_images <= 9 * bound.forward
    assert stopping.backward_images <= 9 * bound.backward


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_example_does_not_depend_on_who_else_is_attacked(
    attack: Any, sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    eps = (5 * PIXEL, 30 * PIXEL)
    whole = list(attack.curve(sap, images, labels, eps, 1))
    order = torch.tensor([7, 3, 4])
    some = attack.curve(sap, images[order], labels[order], eps, 1, examples=order)
    for all_points, points in zip(whole, some, strict=True):
        torch.testing.assert_close(points, all_points[order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_leaves_everything_as_it_was(attack: Any, sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    before, kept, generator = saplab.predict(sap, images, 3, seed=0), images.clone(), torch.get_rng_state()
    with torch.no_grad():
        attack(sap, images, labels, eps=0.1, seed=0)
    assert torch.equal(saplab.predict(sap, images, 3, seed=0), before)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None and p.requires_grad for p in sap.parameters())


@pytest.mark.parametrize("attack", ATTACKS)
def test_training_mode_and_nan_are_refused(attack: Any, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match="training mode"):
        attack(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12)), images, labels, eps=0.1)

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1)[:, :5] - 2).sqrt()

    with pytest.raises(ValueError, match="not finite"):
        attack(Broken(), images, labels, eps=0.1)


def test_eps_may_come_in_any_order_and_twice(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    eps = (0.3, 0.0, 0.1, 0.3)
    for attack in ATTACKS:
        a, zero, b, again = attack.curve(net, images, labels, eps)
        assert torch.equal(zero, images)
        assert torch.equal(a, again)
        ascending = dict(zip((0.1, 0.3), attack.curve(net, images, labels, (0.1, 0.3)), strict=True))
        assert torch.equal(b, ascending[0.1])
        assert torch.equal(a, ascending[0.3])

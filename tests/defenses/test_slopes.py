"""Whether a gradient is the slope of what a network computes: found by steps along it."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.defenses import Draw
from saplab.defenses.slopes import rises, slopes
from saplab.models.initialise import initialise
from saplab.runs.networks import rehearsed

IMAGES = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Misleads(torch.autograd.Function):
    """Returns its input, and hands back the opposite of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return -grad


class Straight(torch.autograd.Function):
    """Rounds to 16 levels, and passes the gradient straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 16).round() / 16

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class Net(nn.Module):
    def __init__(self, first: Any = None, noise: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
        self.net = initialise(nn.Sequential(*layers), 0)
        self.first, self.noise, self.scale = first, noise, scale

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.first is None else self.first.apply(x)
        x = x + self.noise * torch.randn_like(x) if self.noise else x
        return self.scale * self.net(x)


@dataclass(frozen=True)
class Contrary(saplab.Defense):
    """Adds noise, and has a surrogate that leads the other way, by every rule."""

    bends = False

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        return x + 0.05 * draw.normal(x.shape)

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        return -x


def misled(net: nn.Module) -> bool:
    return bool([note for note in rehearsed(net.eval(), IMAGES)[2] if "own gradient" in note])


def test_a_slope_keeps_what_it_promises() -> None:
    shares = rises(Net().eval(), IMAGES)
    assert shares.shape == (3, 8)
    torch.testing.assert_close(shares[0], torch.ones(8, dtype=torch.float64), rtol=0.1, atol=0)


HONEST = {
    "plain": Net(), "large": Net(scale=1e4), "small": Net(scale=1e-4), "noisy": Net(noise=0.1),
    "straight": Net(Straight), "noisy and straight": Net(Straight, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("kind", HONEST)
def test_honest_gradients_are_not_accused(kind: str) -> None:
    net = HONEST[kind]
    assert not misled(net)
    assert not misled(saplab.defend(net, saplab.GaussianNoise(0.1)))


DISHONEST = {"function": Net(Misleads), "noisy": Net(Misleads, 0.1), "surrogate": saplab.defend(Net(), Contrary())}


@pytest.mark.parametrize("kind", DISHONEST)
def test_a_gradient_that_leads_elsewhere_is_named_and_a_black_box_sent(kind: str) -> None:
    net = DISHONEST[kind]
    assert misled(net)
    labels = torch.zeros(8).long()
    found = saplab.evaluate(net.eval(), IMAGES, labels, "standard", 0.05, passes=2, samples=1, progress=False)
    (note,) = [note for note in found.request.notes if "own gradient" in note]
    assert "no backward rule does better" in note
    assert any(row["attack"] == "square" and row["attack_steps"] == 1000 for row in found.rows)


@dataclass(frozen=True)
class Levels(saplab.Defense):
    """Stochastic rounding without a surrogate, whose own gradient is zero."""

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return (8 * h + draw.uniform(h.shape)).floor() / 8


def test_a_gradient_of_zero_is_not_called_noise() -> None:
    (note,) = [note for note in rehearsed(saplab.defend(Net(), Levels()), IMAGES).notes if "gradient" in note]
    assert "own gradient is zero, though with backward=identity outputs rise" in note
    assert "noise" not in note


def test_the_gradient_by_the_mask_of_sap_is_said_to_be_noise() -> None:
    net = saplab.load_model("preact-resnet20-dense")
    images, _ = saplab.load_cifar10("sample")
    found = slopes(saplab.defend(net, saplab.SAP(100)), images, ("mask", "identity", "relaxed"))
    assert found["mask"].misled
    assert not found["identity"].misled
    assert found["identity"].share > 5 * found["mask"].share
    assert "relaxed" not in found  # as one was found that sees


def test_outputs_that_jump_with_each_draw_prove_nothing() -> None:
    class Jumps(Net):
        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            return z * (1 + torch.bernoulli(torch.sigmoid(50 * z.detach() - 25)))

    (found,) = slopes(saplab.Stochastic(Jumps().eval(), example=IMAGES), IMAGES, ("mask",)).values()
    assert not found.misled


class Shared(nn.Module):
    """Honest values, the gradient of another function, and a number with its own that all classes share."""

    def __init__(self) -> None:
        super().__init__()
        self.true, self.false = nn.Linear(192, 10), nn.Linear(192, 10)
        for k, layer in enumerate((self.true, self.false)):
            nn.init.normal_(layer.weight, std=0.3, generator=torch.Generator().manual_seed(k))
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        value, other = self.true(flat), self.false(flat)
        return value.detach() + other - other.detach() + 30 + 300 * flat.mean(1, keepdim=True)


def test_what_all_classes_share_does_not_vouch_for_a_gradient() -> None:
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert slopes(Shared().eval(), images, ("mask",))["mask"].misled

"""Attacks of one step: closed forms on linear networks, ball and cube, draws that belong to the example, budgets."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saplab
from saplab import FGSM, MonteCarlo, RandomNoise
from saplab.attacks import Problem
from saplab.attacks.norms import NORMS
from saplab.defenses.stochastic import ready
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key

RADII = (0.0, 1 / 255, 8 / 255, 1.0)


@pytest.mark.parametrize("attack", [FGSM(MonteCarlo(2)), RandomNoise()])
def test_points_stay_in_ball_and_cube(attack: Any, sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    images[0] = 0.0
    images[1] = 1.0
    for eps, adversarial in zip(RADII, attack.curve(sap, images, labels, RADII), strict=True):
        assert (adversarial - images).abs().max() <= eps + 1e-7
        assert adversarial.min() >= 0
        assert adversarial.max() <= 1
        assert torch.equal(attack(sap, images, labels, eps=eps), adversarial)
    assert torch.equal(attack(sap, images, labels, eps=0.0), images)


def test_fgsm_on_a_linear_network_is_its_closed_form(images: Tensor) -> None:
    """For logits W x + b, the gradient of the cross-entropy is W^T (softmax - onehot)."""
    linear: Any = initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 0)
    labels = torch.arange(9) % 3
    slope = ((linear(images).softmax(1) - F.one_hot(labels, 3)) @ linear[1].weight).detach().view_as(images)
    torch.testing.assert_close(MonteCarlo().estimate(Problem.of(linear, images, labels)).gradient, slope)
    expected = (images + 0.1 * slope.sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM()(linear, images, labels, eps=0.1), expected)


def test_fgsm_raises_the_loss_and_noise_hardly(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    def loss(x: Tensor) -> float:
        return float(F.nll_loss(saplab.predict(sap, x, 200, seed=5).log(), labels))

    clean = loss(images)
    attacked = loss(FGSM(MonteCarlo(50))(sap, images, labels, eps=0.1))
    noisy = loss(RandomNoise()(sap, images, labels, eps=0.1))
    assert attacked - clean > 2 * abs(noisy - clean)


def test_random_signs_are_fair_and_belong_to_the_example() -> None:
    images = torch.zeros(50, 3, 32, 32)

    def signs_of(seed: int, examples: Tensor) -> Tensor:
        return NORMS["linf"].direction(pass_streams(stream_key(seed, "noise"), 0, examples), images[: len(examples)])

    signs = signs_of(0, torch.arange(50))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4 / signs.numel() ** 0.5  # standard errors
    part = signs_of(0, torch.tensor([30, 7]))
    assert torch.equal(part, signs[[30, 7]])
    other = signs_of(1, torch.arange(50))
    assert abs(float((signs * other).mean())) < 4 / signs.numel() ** 0.5


@pytest.mark.parametrize("average", ["loss", "logits"])
def test_a_family_s_images_are_those_of_its_members(
    average: Any, sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Budgets of the average ``loss`` come out of one run; others share nothing, so each is a family of its own."""
    members = [FGSM(MonteCarlo(n, average=average)) for n in (8, 2)]
    assert (members[0].family == members[1].family) == (average == "loss")
    radii = (0.1, 0.02)
    for craft in members[0].family.craft(members, Problem.of(sap, images, labels, seed=3), radii):
        alone = craft.attack.curve(sap, images, labels, radii, 3)
        for made, expected in zip(craft.images, alone, strict=True):
            torch.testing.assert_close(made, expected)
        if average == "loss":
            estimate = craft.attack.gradient.estimate(Problem.of(sap, images, labels, seed=3))  # type: ignore[attr-defined]
            torch.testing.assert_close(craft.half_cosine, estimate.half_cosine, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(craft.gradient_norm, estimate.gradient.flatten(1).norm(dim=1))


def test_a_family_of_many_takes_the_passes_of_its_largest(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    seen: list[int] = []
    sap.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    ready(sap, images)
    seen.clear()
    members = [FGSM(MonteCarlo(n)) for n in (1, 10, 40)]
    crafts = members[0].family.craft(members, Problem.of(sap, images, labels), (0.1,))
    assert [craft.attack for craft in crafts] == members
    assert sum(seen) == 40 * len(images)


def test_a_class_with_other_points_makes_its_own(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    class Half(FGSM):
        def ascending(self, problem: Problem, radii: Any) -> Any:
            return super().ascending(problem, [eps / 2 for eps in radii])

    half = Half(MonteCarlo(2))
    (craft,) = half.family.craft([half], Problem.of(sap, images, labels), (0.1,))
    assert half.family == half
    assert torch.equal(next(craft.images), FGSM(MonteCarlo(2))(sap, images, labels, eps=0.05))

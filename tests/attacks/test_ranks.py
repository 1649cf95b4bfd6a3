"""Scores of saturated outputs: nothing underflows to ties, with randomness or without it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saplab
from saplab.attacks.losses import LOSSES, log_cross_entropy

FACTOR = 2.0**14  # a power of two, so that all logits are multiples to the bit


class Scaled(nn.Module):
    """A network whose logits are so large that all probabilities round to 0 and 1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return FACTOR * self.net(x)


@pytest.mark.parametrize(
    "attack",
    [
        saplab.Square(queries=40),
        saplab.PGD(saplab.MonteCarlo(loss="margin"), steps=3, restarts=3),
        saplab.APGD(saplab.MonteCarlo(loss="dlr"), steps=8),
    ],
)
def test_attacks_move_on_large_logits_as_on_small_ones(
    attack: saplab.Attack, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    small, large = (attack(network, images, labels, eps=0.1, seed=3) for network in (net, Scaled(net)))
    assert torch.equal(small, large)
    assert not torch.equal(small, attack(net, images, labels, eps=0.1, seed=4))


def test_the_rank_orders_losses_that_round_to_nothing(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    asking = saplab.MonteCarlo()
    score = asking.score(saplab.Problem.of(Scaled(net), images, labels))
    z = net(images).double().detach()
    gap = LOSSES["margin"](z, labels)
    sure = gap * FACTOR < -800
    assert sure.sum() > 3
    assert (score.loss[sure] == 0).all()
    assert torch.equal(score.rank[sure].argsort(), gap[sure].argsort())


def test_the_rank_is_the_logarithm_of_the_mean_loss(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    noisy = saplab.defend(net, saplab.RandomNoisyActivations(0.5))
    score = saplab.MonteCarlo(samples=7).score(saplab.Problem.of(noisy, images, labels, seed=2))
    torch.testing.assert_close(score.rank, score.loss.log(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(score.log_probs, score.probs.log())


def test_log_cross_entropy_by_hand() -> None:
    z = torch.tensor([[2.0, 0.0, -1.0], [0.0, 500.0, 0.0]], dtype=torch.float64)
    first = math.log(-math.log(math.exp(2) / (math.exp(2) + 1 + math.exp(-1))))
    found = log_cross_entropy(z, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([first, math.log(2) - 500], dtype=torch.float64))


class Flips(nn.Module):
    """One pass in three is wrong, each as sure as can be: logits grow with the image, by 1e5."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(torch.ones(len(x), 1))
        way = 2.0 * (h < 0.5) + 2.0 * (h > 1.5) - 1.0
        return 1e5 * torch.cat((-way * x.flatten(1).mean(1, keepdim=True), way * 0.5 * torch.ones_like(h)), 1)


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_the_mean_of_saturated_probabilities(loss: str, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Passes that are sure, and disagree, have a mean without a slope: only relaxed ones have one."""
    flips = saplab.Problem.of(
        saplab.defend(Flips(), saplab.RandomNoisyActivations(0.5)), images, torch.zeros(9, dtype=torch.long)
    )
    sure = saplab.Problem.of(saplab.defend(Scaled(net), saplab.RandomNoisyActivations(1e-3)), images, labels)
    for problem, rule in ((flips, "mask"), (flips, "relaxed"), (sure, "mask"), (sure, "relaxed")):
        asking = saplab.MonteCarlo(12, backward=rule, average="probabilities", loss=loss)  # type: ignore[arg-type]
        found = asking.estimate(problem)
        assert torch.isfinite(found.gradient).all()
        if rule == "relaxed" or (problem is sure and loss == "margin"):
            assert (found.gradient.flatten(1).norm(dim=1) > 0).all(), (rule, problem is sure)


def test_the_gradient_of_the_mean_probability_by_hand(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    noisy = saplab.defend(net, saplab.RandomNoisyActivations(0.5))
    problem = saplab.Problem.of(noisy, images, labels, seed=2)
    found = saplab.MonteCarlo(5, average="probabilities", loss="margin").estimate(problem)
    x = images.clone().requires_grad_()
    from saplab.defenses.drawing import drawing
    from saplab.rng.streams import pass_streams, stream_key

    total = 0.0
    for pass_ in range(5):
        with drawing(pass_streams(stream_key(2, "attack"), pass_, torch.arange(9))):
            total = total + F.softmax(noisy(x), 1)
    LOSSES["margin"]((total / 5).log(), labels).sum().backward()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(found.gradient, x.grad, rtol=1e-3, atol=1e-5)

"""Attacks: closed forms on linear networks, Monte Carlo gradients against their definitions, ball and cube."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import saplab
from saplab.attacks import eps_of
from saplab.attacks.ball import project
from saplab.attacks.losses import LOSSES, cross_entropy, dlr, margin
from saplab.attacks.one_step import random_signs
from saplab.defenses.drawing import drawing
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key

STRENGTHS = (0.0, 1 / 255, 8 / 255, 1.0)


@pytest.fixture
def linear() -> nn.Module:
    return initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 0)


@pytest.fixture
def sap() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    return saplab.defend(initialise(net, 0), saplab.SAP(50))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 0, 1, 2, 0])


# --- ball and cube ---------------------------------------------------------------------------------------------------


def test_strengths_are_pixel_steps() -> None:
    assert eps_of(8) == 8 / 255
    assert (eps_of(0), eps_of(255)) == (0.0, 1.0)
    for lam in (-1, 256, float("nan")):
        with pytest.raises(ValueError, match="λ must be within"):
            eps_of(lam)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**31))
def test_projection_is_the_nearest_point_of_ball_and_cube(eps: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, wild = torch.rand(20, generator=generator), 4 * torch.rand(20, generator=generator) - 2
    inside = project(wild, images, eps)
    assert ((inside - images).abs() <= eps + 1e-7).all()
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert torch.equal(project(inside, images, eps), inside)
    by_hand = torch.tensor([min(max(w, x - eps, 0.0), x + eps, 1.0) for w, x in zip(wild, images, strict=True)])
    torch.testing.assert_close(inside, by_hand)


@pytest.mark.parametrize("attack", [saplab.FGSM(saplab.MonteCarlo(2)), saplab.RandomNoise()])
def test_adversaries_stay_in_ball_and_cube(attack: Any, sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    images[0] = 0.0
    images[1] = 1.0
    for eps, adversarial in zip(STRENGTHS, attack.curve(sap, images, labels, STRENGTHS), strict=True):
        assert (adversarial - images).abs().max() <= eps + 1e-7
        assert adversarial.min() >= 0
        assert adversarial.max() <= 1
        assert torch.equal(attack(sap, images, labels, eps=eps), adversarial)
    assert torch.equal(attack(sap, images, labels, eps=0.0), images)


# --- one step --------------------------------------------------------------------------------------------------------


def test_fgsm_on_a_linear_network_is_its_closed_form(linear: nn.Module, images: Tensor, labels: Tensor) -> None:
    """For logits W x + b, the gradient of the cross-entropy is W^T (softmax - onehot)."""
    weight: Tensor = linear[1].weight  # type: ignore[index, assignment, union-attr]
    slope = (linear(images).softmax(1) - F.one_hot(labels, 3)) @ weight
    torch.testing.assert_close(saplab.MonteCarlo().gradient(linear, images, labels), slope.detach().view_as(images))
    expected = (images + 0.1 * slope.sign().view_as(images)).clamp(0, 1).detach()
    torch.testing.assert_close(saplab.FGSM()(linear, images, labels, eps=0.1), expected)


def test_fgsm_raises_the_loss_and_noise_hardly(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    def loss(x: Tensor) -> float:
        return float(F.nll_loss(saplab.predict(sap, x, 200, seed=5).log(), labels))

    clean = loss(images)
    attacked = loss(saplab.FGSM(saplab.MonteCarlo(50))(sap, images, labels, eps=0.1))
    noisy = loss(saplab.RandomNoise()(sap, images, labels, eps=0.1))
    assert attacked - clean > 2 * abs(noisy - clean)


def test_random_signs_are_fair_and_belong_to_the_example() -> None:
    images = torch.zeros(50, 3, 32, 32)
    signs = random_signs(images, stream_key(0, "noise"), torch.arange(50))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4 / signs.numel() ** 0.5  # standard errors
    part = random_signs(images[:2], stream_key(0, "noise"), torch.tensor([30, 7]))
    assert torch.equal(part, signs[[30, 7]])
    other = random_signs(images, stream_key(1, "noise"), torch.arange(50))
    assert abs(float((signs * other).mean())) < 4 / signs.numel() ** 0.5


# --- Monte Carlo gradients -------------------------------------------------------------------------------------------


def _passes(sap: nn.Module, images: Tensor, samples: int, seed: int, rule: Any = "mask") -> list[Tensor]:
    logits = []
    for number in range(samples):
        with drawing(pass_streams(stream_key(seed, "attack"), number, torch.arange(len(images))), rule):
            logits.append(sap(images))
    return logits


@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
@pytest.mark.parametrize("average", ["loss", "logits", "probabilities"])
@pytest.mark.parametrize("backward", ["mask", "probability", "identity"])
def test_gradient_is_that_of_its_definition(
    loss: Any, average: Any, backward: Any, sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    estimate = saplab.MonteCarlo(5, backward, average, loss).gradient(sap, images, labels, seed=3)
    x = images.clone().requires_grad_()
    logits = torch.stack(_passes(sap, x, 5, 3, backward))
    value = {
        "loss": lambda: torch.stack([LOSSES[loss](z, labels) for z in logits]).mean(0),
        "logits": lambda: LOSSES[loss](logits.mean(0), labels),
        "probabilities": lambda: LOSSES[loss](logits.softmax(2).mean(0).log(), labels),
    }[average]()
    (expected,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(estimate, expected, atol=1e-6, rtol=1e-4)


def test_gradient_does_not_depend_on_batches(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    estimate = saplab.MonteCarlo(samples=6)
    whole = estimate.gradient(sap, images, labels)
    for batch_size in (1, 3, 14):
        part = estimate.gradient(sap, images, labels, batch_size=batch_size)
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)
    order = torch.tensor([6, 2, 0])
    some = estimate.gradient(sap, images[order], labels[order], examples=order)
    torch.testing.assert_close(some, whole[order], atol=1e-6, rtol=1e-5)


def test_samples_are_nested_and_go_on_where_told(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    """4 samples are the mean of the first 3 and the fourth."""
    first, last = saplab.MonteCarlo(3), saplab.MonteCarlo(1)
    four = saplab.MonteCarlo(4).gradient(sap, images, labels)
    three = first.gradient(sap, images, labels)
    fourth = last.gradient(sap, images, labels, first_sample=3)
    torch.testing.assert_close(four, (3 * three + fourth) / 4, atol=1e-6, rtol=1e-4)


def test_attack_and_defence_of_one_seed_draw_apart(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    before = saplab.predict(sap, images, 3, seed=0)
    saplab.FGSM(saplab.MonteCarlo(3))(sap, images, labels, eps=0.1, seed=0)
    assert torch.equal(saplab.predict(sap, images, 3, seed=0), before)
    assert stream_key(0, "attack") != stream_key(0, "defense")


def test_attack_leaves_network_images_and_global_generators_alone(
    sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    state, kept, generator = [p.clone() for p in sap.parameters()], images.clone(), torch.get_rng_state()
    saplab.FGSM(saplab.MonteCarlo(2))(sap, images, labels, eps=0.1)
    assert all(torch.equal(a, b) for a, b in zip(state, sap.parameters(), strict=True))
    assert all(p.grad is None for p in sap.parameters())
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)


def test_identity_backward_passes_where_the_mask_blocks() -> None:
    """With one draw of two activations, the mask's gradient misses what was pruned; identity's does not."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))  # type: ignore[operator, union-attr]
        net[2].weight.copy_(torch.eye(2))  # type: ignore[operator, union-attr]
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    sap = saplab.defend(net, saplab.SAP(50))
    mask = saplab.MonteCarlo(1, "mask").gradient(sap, x, y)
    identity = saplab.MonteCarlo(1, "identity").gradient(sap, x, y)
    assert (mask == 0).sum() == 1
    assert (identity != 0).all()


# --- losses ----------------------------------------------------------------------------------------------------------


def test_losses_by_hand() -> None:
    z, y = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 5.0, 1.0]]), torch.tensor([0, 1])
    torch.testing.assert_close(margin(z, y), torch.tensor([-2.0, 3.0]))
    torch.testing.assert_close(dlr(z, y), torch.tensor([-2 / 3, 3 / 4]))
    torch.testing.assert_close(cross_entropy(z, y), F.cross_entropy(z, y, reduction="none"))
    with pytest.raises(ValueError, match="at least 3 classes"):
        dlr(z[:, :2], y)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    attack = saplab.FGSM()
    cases: list[tuple[Tensor, Tensor, float, str]] = [
        (images * 255, labels, 0.1, r"`images` must lie in \[0, 1\]"),
        (images * torch.nan, labels, 0.1, r"`images` must lie in \[0, 1\], got values from nan"),
        (images[:0], labels[:0], 0.1, "at least one image"),
        (images, labels[:3], 0.1, "`labels` must be 7 integers"),
        (images, labels.float(), 0.1, "`labels` must be 7 integers"),
        (images, labels + 1, 0.1, r"`labels` must lie in 0\.\.2 for this network, got 1\.\.3"),
        (images, labels, -0.1, r"`eps` must be within \[0, 1\], got -0\.1"),
        (images, labels, 8.0, r"`eps` must be within \[0, 1\], got 8"),
    ]
    for x, y, eps, message in cases:
        with pytest.raises(ValueError, match=message):
            attack(sap, x, y, eps=eps)
    for settings_, message in (
        ({"samples": 0}, "`samples` must be >= 1"),
        ({"backward": "straight"}, "`backward` must be one of mask, probability, identity"),
        ({"average": "votes"}, "`average` must be one of"),
        ({"loss": "mse"}, "`loss` must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            saplab.MonteCarlo(**settings_)  # type: ignore[arg-type]


def test_gradient_that_is_not_finite_is_an_error(images: Tensor, labels: Tensor) -> None:
    class Cliff(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1)[:, :3] - 2).sqrt()

    with pytest.raises(ValueError, match="not finite"):
        saplab.FGSM()(Cliff(), images, labels, eps=0.1)

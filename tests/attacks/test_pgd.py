"""Iterative and PGD: known worst cases, equalities between attacks, who is attacked on, and which draws decide."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saplab import FGSM, PGD, Iterative, MonteCarlo
from saplab.attacks import Problem
from saplab.attacks.pgd import Ascent
from saplab.defenses.stochastic import trust
from saplab.models.initialise import initialise

PIXEL = 1 / 255


@pytest.fixture
def linear() -> nn.Module:
    """Two classes: the worst case within eps is x - eps·sign(w) for the label 0, x + eps·sign(w) for 1."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    return initialise(net, 3)


def worst_case(linear: Any, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    weight = (linear[1].weight[1] - linear[1].weight[0]).detach().view(images.shape[1:])
    sign = torch.where(labels == 0, 1.0, -1.0)[:, None, None, None]
    return (images + eps * sign * weight.sign()).clamp(0, 1)


# --- worst cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("attack", [Iterative(), Iterative(0.75), PGD(steps=8), PGD(steps=8, momentum=1.0, restarts=2)])
def test_worst_case_of_a_linear_network_is_reached(attack: Any, loss: Any, linear: nn.Module, images: Tensor) -> None:
    labels = linear(images).argmax(1)
    attack = replace(attack, gradient=MonteCarlo(loss=loss), stop_when_lost=False)
    radii = (0.0, PIXEL, 20 * PIXEL)
    for eps, points in zip(radii, attack.curve(linear, images, labels, radii), strict=True):
        torch.testing.assert_close(points, worst_case(linear, images, labels, eps), atol=1e-6, rtol=0)


def test_targets_reach_the_nearest_of_many_classes(images: Tensor) -> None:
    """On a linear network the easiest class is known in closed form; attacks towards all others must find it."""
    linear: Any = initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 6)), 1)
    with torch.no_grad():
        linear[1].weight.mul_(torch.linspace(0.2, 4.0, 6)[:, None])  # some logits move farther than others
    eps = 0.1
    inner = images.clamp(0.1, 0.9)  # away from the cube's faces
    labels = linear(inner).argmax(1)
    w, z = linear[1].weight, linear(inner)
    reach = (w[None] - w[labels][:, None]).abs().sum(2) * eps + z - z.gather(1, labels[:, None])
    best, easiest = reach.masked_fill(F.one_hot(labels, 6).bool(), -torch.inf).max(1)
    assert (easiest != z.topk(2).indices[:, 1]).any()  # not always the likeliest
    attack = PGD(MonteCarlo(loss="margin"), steps=6, targets=5, stop_when_lost=False)
    found = linear(attack(linear, inner, labels, eps=eps))
    margin = found.masked_fill(F.one_hot(labels, 6).bool(), -torch.inf).amax(1) - found.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(margin, best, atol=1e-5, rtol=0)


def test_one_full_step_from_the_image_is_fgsm(net: nn.Module, sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    one_step: dict[str, Any] = {"steps": 1, "relative_step": 1.0, "random_start": False}
    gradient = MonteCarlo(4)
    random = PGD(gradient, **one_step, stop_when_lost=False)(sap, images, labels, eps=0.1, seed=3)
    assert torch.equal(random, FGSM(gradient)(sap, images, labels, eps=0.1, seed=3))
    dense = PGD(**one_step)(net, images, labels, eps=0.1)
    assert torch.equal(dense, FGSM()(net, images, labels, eps=0.1))
    assert torch.equal(Iterative()(net, images, labels, eps=PIXEL), FGSM()(net, images, labels, eps=PIXEL))


def test_paths_of_the_paper_take_a_step_for_each_pixel_step() -> None:
    assert [Iterative(1.0).steps_at(lam * PIXEL) for lam in (0, 0.5, 1, 8, 64)] == [1, 1, 1, 8, 64]
    assert [Iterative(3.0).steps_at(lam * PIXEL) for lam in (2, 3, 4, 9, 10)] == [1, 1, 2, 3, 4]


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("step", [1.0, 1.5])
def test_one_path_gives_the_points_of_separate_runs(
    stop: bool, step: float, sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    attack = Iterative(step, MonteCarlo(6), stop)
    eps = [lam * PIXEL for lam in (16, 0, 1, 2, 5, 2)]
    for radius, points in zip(eps, attack.curve(sap, images, labels, eps, 4), strict=True):
        torch.testing.assert_close(points, attack(sap, images, labels, radius, 4), atol=1e-6, rtol=0)


def test_more_restarts_find_no_lower_loss(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    def loss(attack: PGD) -> Tensor:
        return F.cross_entropy(net(attack(net, images, labels, eps=0.2)), labels, reduction="none")

    one, five = PGD(steps=2, stop_when_lost=False), PGD(steps=2, restarts=5, stop_when_lost=False)
    assert (loss(five) >= loss(one)).all()
    assert (loss(five) > loss(one)).any()


def test_momentum_is_the_decaying_sum_of_normalised_gradients(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    eps, step, mu = 0.2, 0.1, 0.7
    x, velocity = images.clone(), torch.zeros_like(images)
    for _ in range(3):
        slope = MonteCarlo().estimate(Problem.of(net, x, labels)).gradient
        velocity = mu * velocity + slope / slope.abs().sum((1, 2, 3), keepdim=True)
        x = (x + step * velocity.sign()).clamp(images - eps, images + eps).clamp(0, 1)
    attack = PGD(steps=3, relative_step=step / eps, momentum=mu, random_start=False, stop_when_lost=False)
    torch.testing.assert_close(attack(net, images, labels, eps=eps), x)


# --- random starts ---------------------------------------------------------------------------------------------------


def test_random_start_is_uniform_in_the_ball() -> None:
    images = torch.full((40, 3, 16, 16), 0.5)
    problem = Problem.of(nn.Identity(), images, torch.zeros(40, dtype=torch.long))
    moved = (problem.random_start(0.1, 0) - images) / 0.1
    n = moved.numel()
    assert abs(float(moved.mean())) < 4 * (1 / 3 / n) ** 0.5  # standard errors
    assert abs(float(moved.square().mean()) - 1 / 3) < 4 * (4 / 45 / n) ** 0.5
    assert moved.abs().max() <= 1 + 1e-5
    other = (problem.random_start(0.1, 1) - images) / 0.1
    assert abs(float((moved * other).mean())) < 4 * (1 / 9 / n) ** 0.5


# --- who is attacked on ----------------------------------------------------------------------------------------------


def test_lost_examples_stay_where_they_were_lost(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    labels = labels.clone()
    labels[2] = (labels[2] + 1) % 5  # a clean error
    for attack in (Iterative(), PGD(steps=10, random_start=False, relative_step=0.1)):
        points = attack(net, images, labels, eps=0.5)
        assert torch.equal(points[2], images[2])
        everything = replace(attack, stop_when_lost=False)(net, images, labels, eps=0.5)
        assert (everything[2] != images[2]).any()
        assert (net(points).argmax(1) != labels).all()
        assert ((points - images).abs().amax((1, 2, 3)) < 0.45).any()


def test_points_lost_at_a_smaller_eps_serve_the_larger(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    eps = (0.02, 0.1, 0.3, 0.6)
    points = list(PGD(steps=5).curve(net, images, labels, eps))
    lost_at = torch.stack([net(x).argmax(1) != labels for x in points])
    assert lost_at[-1].all()
    assert not lost_at[0].all()
    for small, large, gone in zip(points, points[1:], lost_at, strict=False):
        assert torch.equal(small[gone], large[gone])
    with_false = PGD(steps=5, stop_when_lost=False)
    for radius, x in zip(eps, with_false.curve(net, images, labels, eps), strict=True):
        assert torch.equal(x, with_false(net, images, labels, radius))


# --- draws -----------------------------------------------------------------------------------------------------------


def test_every_step_and_try_sees_fresh_samples(
    sap: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[range] = []

    def note(name: str) -> None:
        original = getattr(MonteCarlo, name)

        def asked(self: MonteCarlo, problem: Problem, block: int = 0) -> Any:
            seen.append(range(block * self.samples, (block + 1) * self.samples))
            return original(self, problem, block)

        monkeypatch.setattr(MonteCarlo, name, asked)

    note("estimate")
    note("score")
    PGD(MonteCarlo(3), steps=4, restarts=2, targets=2, stop_when_lost=False)(sap, images, labels, eps=0.05)
    asked = [number for block in seen for number in block]
    assert len(asked) == len(set(asked)) == 3 * (1 + 4 * 5)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_settings_are_refused(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    cases: Iterator[tuple[Any, str]] = iter([
        (lambda: Iterative(step=0), "`step` must be > 0"),
        (lambda: PGD(steps=0), "`steps` must be >= 1"),
        (lambda: PGD(restarts=0), "`restarts` must be >= 1"),
        (lambda: PGD(relative_step=-1.0), "`relative_step` must be > 0"),
        (lambda: PGD(momentum=-0.1), "`momentum` must be >= 0"),
        (lambda: PGD(targets=5)(net, images, labels, eps=0.1), "`targets` must be below the number of classes, 5"),
        (lambda: PGD()(net, images * 2, labels, eps=0.1), r"`images` must lie in \[0, 1\]"),
        (lambda: Iterative()(net, images, labels, eps=8.0), "`eps` must be within"),
        (lambda: PGD()(net, images, labels, eps=0.1, seed=-1), "`seed` must be an integer >= 0"),
    ])  # fmt: skip
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()


def test_a_dead_gradient_moves_nothing(images: Tensor, labels: Tensor) -> None:
    """A sign of zero is zero, with and without momentum."""

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * x.flatten(1)[:, :5] + F.one_hot(labels, 5)

    ascent = Ascent(MonteCarlo(), 0.1, 0.1, 2, momentum=1.0)
    problem = Problem.of(trust(Flat()), images, labels)
    assert all(torch.equal(points, images) for points in ascent.path(problem, images))

"""ARC on mixtures: it finds what the gradient of the expected loss misses, and never leaves its room."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab import ARC, PGD, Attacker, MonteCarlo
from saplab.attacks.batteries import Traits
from saplab.models.initialise import initialise

EPS = 0.1


def linear(normal: tuple[float, float], offset: float) -> nn.Module:
    """Return the classifier that answers 1 where normal · x + offset > 0, with that lead."""
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([(0.0, 0.0), normal]))
        net.bias.copy_(torch.tensor([0.0, offset]))
    return net.eval()


ORIGIN, LABEL = torch.zeros(1, 2), torch.tensor([1])
SAFE = linear((1.0, 0.0), 1.2)  # right for x > -1.2, so within the ball of radius 1, but of large loss for small x
WEAK = linear((-0.1, 0.0), 0.05)  # wrong for x > 0.5, of a small slope


def small_net(seed: int) -> nn.Module:
    return initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 5)), seed).eval()


@pytest.fixture
def mixture() -> saplab.Mixture:
    return saplab.Mixture([small_net(0), small_net(1), small_net(2)], (0.2, 0.5, 0.3))


@pytest.fixture
def wanted(mixture: saplab.Mixture, images: Tensor) -> Tensor:
    return mixture.expected(images).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("weights", [(0.55, 0.45), (0.45, 0.55)])
def test_it_finds_what_the_expected_loss_hides(norm: Any, weights: tuple[float, float]) -> None:
    """The loss of the network that cannot be fooled pulls every gradient step away from the other's only error."""
    mixed = saplab.Mixture([SAFE, WEAK], weights)
    room = {"eps": 1.0, "norm": norm, "bounds": None}
    along = PGD(MonteCarlo(50), steps=20)(mixed, ORIGIN, LABEL, **room)
    assert (along[0, 0] < -0.9, mixed.accuracy(along, LABEL)) == (True, 1.0)
    found = ARC()(mixed, ORIGIN, LABEL, **room)
    assert (found[0, 0] > 0.5, mixed.accuracy(found, LABEL)) == (True, pytest.approx(weights[0]))


def test_one_round_by_hand() -> None:
    """In L2: w_1 = (1, 0) and w_2 = (0, 2), at distances 0.5 and 0.6; ε = 1, so β_2 = 1 / (1 - 0.6) · 0.6 + 0.05."""
    mixed = saplab.Mixture([linear((1.0, 0.0), 0.5), linear((0.0, 2.0), 1.2)], (0.6, 0.4))
    found = ARC(steps=1)(mixed, ORIGIN, LABEL, eps=1.0, norm="l2", bounds=None)
    candidate = torch.tensor([[-1.0, -(0.6 / 0.4 + 0.05)]])
    assert torch.allclose(found, candidate / candidate.norm())
    assert mixed.accuracy(found, LABEL) == 0.0
    first = saplab.Mixture([linear((1.0, 0.0), 0.5), linear((0.0, 2.0), 2.2)], (0.6, 0.4))
    beyond = ARC(steps=1)(first, ORIGIN, LABEL, eps=1.0, norm="l2", bounds=None)
    assert torch.allclose(beyond, torch.full((1, 2), -(0.5**0.5))), "β = η where a boundary is out of reach"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_it_stays_in_ball_and_bounds_and_never_helps(
    norm: Any, share: float, mixture: saplab.Mixture, images: Tensor, wanted: Tensor
) -> None:
    attack, clean = ARC(steps=4, relative_step=share), mixture.accuracy(images, wanted)
    radii = (0.0, EPS, 3 * EPS)
    curve = list(attack.curve(mixture, images, wanted, radii, norm=norm))
    left = [mixture.accuracy(points, wanted) for points in curve]
    for points, eps in zip(curve, radii, strict=True):
        change = (points - images).flatten(1)
        assert (change.abs().amax(1) if norm == "linf" else change.norm(dim=1)).max() <= eps + 1e-6
        assert 0 <= points.min() <= points.max() <= 1
    assert torch.equal(curve[0], images)
    assert clean == left[0] >= left[1] >= left[2]
    assert left[2] < clean


def test_networks_of_one_kind_are_lost_together(images: Tensor) -> None:
    """A mixture of one network behaves as that network, and one of copies as well."""
    net = small_net(0)
    labels = net(images).argmax(1)
    alone, twice = saplab.Mixture([net]), saplab.Mixture([net, net], (0.7, 0.3))
    points = [ARC(steps=3)(mixed, images, labels, eps=EPS) for mixed in (alone, twice)]
    for mixed, found in zip((alone, twice), points, strict=True):
        assert mixed.accuracy(found, labels) == pytest.approx((net(found).argmax(1) == labels).double().mean().item())
    strongest = PGD(steps=20)(net, images, labels, eps=EPS)
    assert alone.accuracy(points[0], labels) <= (net(strongest).argmax(1) == labels).double().mean() + 1 / 9


def test_examples_and_batches_do_not_matter(mixture: saplab.Mixture, images: Tensor, wanted: Tensor) -> None:
    whole = ARC(steps=2)(mixture, images, wanted, eps=EPS)
    part = ARC(steps=2)(mixture, images[3:5], wanted[3:5], eps=EPS)
    assert torch.allclose(whole[3:5], part, atol=1e-6)


def test_fewer_rivals_are_the_likeliest(mixture: saplab.Mixture, images: Tensor, wanted: Tensor) -> None:
    every = ARC(steps=2)(mixture, images, wanted, eps=EPS)
    assert torch.equal(every, ARC(steps=2, rivals=4)(mixture, images, wanted, eps=EPS)), "five classes have four rivals"
    assert not torch.equal(every, ARC(steps=2, rivals=1)(mixture, images, wanted, eps=EPS))


SEEN = {"forward": 0, "backward": 0}


class Counting(nn.Module):
    """A network that counts the images that it and its copies see, and the gradients that reach them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        SEEN["forward"] += len(x)
        if x.requires_grad:
            x = x * 1.0
            x.register_hook(self._count)
        return self.net(x)

    def _count(self, gradient: Tensor) -> None:
        SEEN["backward"] += len(gradient)


def test_cost_is_reached(images: Tensor, wanted: Tensor) -> None:
    mixed, attack = saplab.Mixture([Counting(small_net(k)).eval() for k in range(2)]), ARC(steps=3, rivals=4)
    assert attack.cost(()) == attack.cost((0.0,)) == saplab.Cost(0, 0)
    tireless, radii = replace(attack, stop_when_lost=False), (0.0, EPS, 2 * EPS)
    problem = saplab.Problem.of(mixed, images, wanted)
    list(tireless.points(problem, radii))  # with the rehearsals
    SEEN.update(forward=0, backward=0)
    list(tireless.points(problem, radii))
    cost = tireless.cost(radii)
    assert {"forward": 9 * cost.forward, "backward": 9 * cost.backward} == SEEN
    list(attack.points(problem, radii))
    assert SEEN["backward"] < 2 * 9 * cost.backward, "lost examples cost nothing"


def test_what_is_no_mixture_is_refused(mixture: saplab.Mixture, images: Tensor, wanted: Tensor) -> None:
    refused = (
        (small_net(0), {}, "arc attacks a saplab.Mixture alone, got Sequential"),
        (saplab.defend(mixture, saplab.SAP(50)), {}, "without defences on it"),
        (saplab.Mixture([nn.Sequential(small_net(0), nn.Dropout(0.5).train()), small_net(1)]), {}, "not random"),
        (mixture, {"targets": (wanted + 1) % 5}, "arc knows no `targets`"),
    )
    for net, more, message in refused:
        with pytest.raises(ValueError, match=message):
            ARC()(net, images, wanted, eps=EPS, **more)
    for settings, message in (({"steps": 0}, "steps"), ({"rivals": 0}, "rivals"), ({"relative_step": 0.0}, "relative")):
        with pytest.raises(ValueError, match=message):
            ARC(**settings)  # type: ignore[arg-type]


class Blind(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, :5] > 0.5).float()


def test_a_network_without_a_gradient_is_an_error(images: Tensor, wanted: Tensor) -> None:
    with pytest.raises(ValueError, match="does not reach the image"):
        ARC()(saplab.Mixture([small_net(0), Blind().eval()]), images, wanted, eps=EPS)


def test_evaluations_in_one_process_and_in_two_agree(mixture: saplab.Mixture, images: Tensor, wanted: Tensor) -> None:
    asked: dict[str, Any] = {"attacks": "arc:steps=2+pgd:steps=2", "eps": 3 * EPS, "samples": 2, "progress": False}
    found, again = (saplab.evaluate(mixture, images, wanted, workers=workers, **asked) for workers in (None, 2))
    assert found.rows == again.rows
    curve = found.request.curves[0]
    assert (curve.label, curve.claim) == ("stochastic: ARC-2", ARC.claim)
    points = ARC(steps=2)(mixture, images, wanted, eps=3 * EPS, examples=torch.arange(9))
    probs = saplab.predict(mixture, points, passes=20, seed=0)
    right = 100 * (probs.argmax(1) == wanted).double().mean().item()
    assert found.rows[1]["averaged_percent"] == pytest.approx(right, abs=0.01)


def names(result: Any) -> list[str]:
    return [type(curve.first.attack).__name__ for curve in result.request.curves]


def test_only_mixtures_get_it_from_a_battery(mixture: saplab.Mixture, images: Tensor, wanted: Tensor) -> None:
    battery = [Attacker(saplab.RandomNoise()), Attacker(ARC(steps=2), only=Traits(mixture=True))]
    asked: dict[str, Any] = {"attacks": battery, "eps": EPS, "passes": 2, "samples": 2, "progress": False}
    assert names(saplab.evaluate(mixture, images, wanted, **asked)) == ["RandomNoise", "ARC"]
    assert names(saplab.evaluate(small_net(0), images, wanted, **asked)) == ["RandomNoise"]
    sap = saplab.defend(mixture, saplab.SAP(50))
    assert names(saplab.evaluate(sap, images, wanted, **asked)) == ["RandomNoise", "RandomNoise"], "with its baseline"

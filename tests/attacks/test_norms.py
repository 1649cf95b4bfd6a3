"""Norms: nearest points of ball and bounds, farthest points along a gradient, draws uniform by volume."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saplab import APGD, FGSM, PGD, Iterative
from saplab.attacks import Attack
from saplab.attacks.norms import NORMS, Bounds, NormName
from saplab.rng.streams import pass_streams

L2, LINF = NORMS["l2"], NORMS["linf"]
UNIT = (0.0, 1.0)


def test_l2_projection_by_hand() -> None:
    """y - x = (3, 4) is cut to length 1: (0.6, 0.8). With room 0.1 above the first value, the second takes the rest."""
    centre, point = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(L2.project(point, centre, 1.0, None), torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(L2.project(point, centre, 5.5, None), point)
    torch.testing.assert_close(
        L2.project(point, torch.tensor([[0.0, 0.0]]), 1.0, (-1.0, 0.1)), torch.tensor([[0.1, 0.1]])
    )
    held = L2.project(torch.tensor([[1.2, 0.4]]), torch.tensor([[0.9, 0.0]]), 0.26, UNIT)
    torch.testing.assert_close(held, torch.tensor([[1.0, 0.24]]))  # 0.1² + 0.24² = 0.26²
    for eps in (0.0, 1.0):  # nothing to shrink, and no room at all
        assert torch.equal(L2.project(centre, centre, eps, UNIT), centre)
        assert torch.equal(L2.farthest(centre, centre, eps, UNIT), centre)
    assert torch.equal(L2.project(point, centre, 0.0, None), centre)


def test_linf_projection_by_hand() -> None:
    centre, point = torch.tensor([[0.2, 0.95, 0.5]]), torch.tensor([[0.9, 1.7, 0.45]])
    torch.testing.assert_close(LINF.project(point, centre, 0.1, UNIT), torch.tensor([[0.3, 1.0, 0.45]]))
    torch.testing.assert_close(LINF.project(point, centre, 0.1, None), torch.tensor([[0.3, 1.05, 0.45]]))


def _drawn(seed: int, bounds: Bounds, count: int = 12) -> tuple[Tensor, Tensor]:
    """Return centres within the bounds, some on them, and points anywhere."""
    generator = torch.Generator().manual_seed(seed)
    low, high = bounds or (-2.0, 2.0)
    centre = low + (high - low) * (1.4 * torch.rand(6, count, generator=generator) - 0.2).clamp(0, 1)
    return centre, centre + 2 * torch.randn(6, count, generator=generator)


CASES = (
    st.sampled_from(list(NORMS)),
    st.floats(0, 3),
    st.integers(0, 2**31),
    st.sampled_from([None, UNIT, (-1.0, 3.0)]),
)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(*CASES)
def test_projection_is_idempotent_inside_and_nearest(name: NormName, eps: float, seed: int, bounds: Bounds) -> None:
    norm = NORMS[name]
    centre, points = _drawn(seed, bounds)
    inside = norm.project(points, centre, eps, bounds)
    assert (norm.size(inside - centre) <= eps * (1 + 1e-5) + 1e-6).all()
    if bounds is not None:
        assert inside.min() >= bounds[0]
        assert inside.max() <= bounds[1]
    torch.testing.assert_close(norm.project(inside, centre, eps, bounds), inside, atol=1e-5, rtol=0)
    if norm is L2:  # the whole radius is used wherever the valid point nearest to y lies outside the ball
        beyond = norm.size((points if bounds is None else points.clamp(*bounds)) - centre) > eps
        torch.testing.assert_close(norm.size(inside - centre)[beyond].float(), torch.full((int(beyond.sum()),), eps))
    # nearest, by the variational inequality <y - P(y), z - P(y)> <= 0 for every z of the set
    _, others = _drawn(seed + 1, bounds)
    for z in (norm.project(others, centre, eps, bounds), centre):
        assert (((points - inside).double() * (z - inside).double()).sum(1) <= 1e-4).all()


@settings(derandomize=True, max_examples=80, deadline=None)
@given(*CASES)
def test_farthest_is_the_best_of_a_linear_function(name: NormName, eps: float, seed: int, bounds: Bounds) -> None:
    norm = NORMS[name]
    centre, points = _drawn(seed, bounds)
    gradient = points - centre
    best = norm.farthest(gradient, centre, eps, bounds)
    assert (norm.size(best - centre) <= eps * (1 + 1e-5) + 1e-6).all()
    value = (gradient.double() * best.double()).sum(1)
    for other in (seed + 1, seed + 2):
        z = norm.project(centre + 9 * (_drawn(other, bounds)[1] - centre), centre, eps, bounds)
        assert ((gradient.double() * z.double()).sum(1) <= value + 1e-4).all()
    if norm is L2:  # all of the radius is used, but where every value has met its bound
        room = torch.full_like(best, torch.inf)
        if bounds is not None:
            room = torch.where(gradient > 0, bounds[1] - best, torch.where(gradient < 0, best - bounds[0], 0.0))
        held = (room < 1e-6).flatten(1).all(1)
        assert (held | (norm.size(best - centre) >= eps * (1 - 1e-4) - 1e-6)).all()
    assert torch.equal(norm.farthest(0 * gradient, centre, eps, bounds), centre)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_l2_direction_has_length_one_at_any_scale(size: float) -> None:
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]]) * size
    torch.testing.assert_close(L2.steepest(gradient), torch.tensor([[0.6, -0.8], [0.0, 0.0]]))


def test_dual_norms_are_what_a_unit_step_gains() -> None:
    """‖g‖* is the most that a change of norm 1 gains along g, up to the constant by which the docstring differs."""
    gradient = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for norm, constant in ((L2, 1), (LINF, 7)):
        gained = (gradient * norm.steepest(gradient)).sum(1)
        torch.testing.assert_close(constant * norm.dual(gradient), gained)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_starts_are_uniform_by_volume(norm: object, count: int) -> None:
    """The radius of a uniform point to the power d is uniform, and the mean is 0: each within four standard errors."""
    assert norm in (L2, LINF)
    known = L2 if norm is L2 else LINF
    n = 20_000
    points = known.in_ball(pass_streams(5, 0, torch.arange(n)), torch.empty(n, count))
    share = known.size(points) ** count
    assert share.max() <= 1 + 1e-6
    for power in (1, 2):  # of a uniform number u: E u = 1/2, E u² = 1/3, with variances 1/12 and 4/45
        error = math.sqrt((1 / 12, 4 / 45)[power - 1] / n)
        assert abs(float((share**power).mean()) - 1 / (power + 1)) < 4 * error
    spread = points.std(0)
    assert (points.mean(0).abs() < 4 * spread / math.sqrt(n)).all()
    second = {id(L2): 1 / (count + 2), id(LINF): 1 / 3}[id(known)]  # E x² of one coordinate
    assert float(points.square().mean()) == pytest.approx(second, rel=4 * 2 / math.sqrt(n * count))


def test_radii_of_balls_that_hold_a_cube() -> None:
    assert LINF.holding_cube(0.25, 16) == 0.25
    assert L2.holding_cube(0.25, 16) == 1.0


class Linear(torch.nn.Module):
    """Two classes whose logits differ by w·x."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        gap = (x * self.weight).flatten(1).sum(1)
        return torch.stack((torch.zeros_like(gap), gap), 1)


@pytest.mark.parametrize("bounds", [None, UNIT])
def test_attacks_on_a_linear_network_find_the_closed_form_in_l2(bounds: Bounds) -> None:
    """Without bounds x + eps·w/‖w‖ is worst; with bounds, the same along w as far as they allow."""
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0])
    images = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.9, 0.05, 0.2, 0.99]])
    net, labels, eps = Linear(weight), torch.tensor([0, 0]), 0.3
    worst = images + eps * weight / weight.norm()
    if bounds is not None:  # by bisection on s: clip(x + s·w) of length eps
        low, high = torch.zeros(2, 1), torch.full((2, 1), 100.0)
        for _ in range(200):
            middle = (low + high) / 2
            short = ((images + middle * weight).clamp(0, 1) - images).norm(dim=1, keepdim=True) < eps
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        worst = (images + low * weight).clamp(0, 1)
        assert not torch.allclose(worst[1], (images + eps * weight / weight.norm()).clamp(0, 1)[1], atol=0.01)
    attacks: list[Attack] = [
        FGSM(), PGD(steps=40, relative_step=0.5, stop_when_lost=False),
        PGD(steps=60, relative_step=0.3, momentum=0.5, stop_when_lost=False), APGD(steps=40, stop_when_lost=False),
    ]  # fmt: skip
    attacks += [] if bounds else [Iterative(4.0, stop_when_lost=False)]  # whose path is too short along a bound
    for attack in attacks:
        found = attack(net, images, labels, eps=eps, norm="l2", bounds=bounds)
        torch.testing.assert_close(found, worst, atol=2e-3, rtol=0)

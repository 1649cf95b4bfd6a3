"""Square Attack: worst cases, its squares and their schedule, and fair acceptance where scores are random."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab import MonteCarlo, Square
from saplab.attacks import LINF, Problem, ThreatModel
from saplab.attacks.squares import WINDOWS, _bump, _bumps, _inside, place, sides
from saplab.defenses.stochastic import ready
from saplab.models.initialise import initialise


@pytest.fixture
def images() -> Tensor:
    return torch.rand(9, 3, 2, 2, generator=torch.Generator().manual_seed(0)).mul(0.6).add(0.2)


def problem_of(images: Tensor, seed: int = 0, threat: ThreatModel = LINF) -> Problem:
    labels = torch.zeros(len(images), dtype=torch.long)
    return Problem.of(nn.Identity(), images, labels, seed=seed, threat=threat)


def test_worst_case_of_a_linear_network_is_reached(images: Tensor) -> None:
    linear: Any = initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 3)
    labels = linear(images).argmax(1)
    weight = (linear[1].weight[1] - linear[1].weight[0]).detach().view(3, 2, 2)
    worst = images + 0.1 * torch.where(labels == 0, 1.0, -1.0)[:, None, None, None] * weight.sign()
    found = Square(queries=500, stop_when_lost=False)(linear, images, labels, eps=0.1)
    torch.testing.assert_close(found, worst)


def test_it_needs_no_gradient(images: Tensor) -> None:
    """A network of steps, whose gradient is zero everywhere, is attacked by its scores."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 4)
            initialise(self, 0)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((torch.relu(self.first(x.flatten(1))) * 20).floor() / 20)

    net = Steps()
    labels = net(images).argmax(1)
    assert (saplab.PGD(steps=10)(net, images, labels, eps=0.5) - images).abs().max() <= 0.5
    stuck = saplab.PGD(steps=10, random_start=False)(net, images, labels, eps=0.5)
    assert torch.equal(stuck, images)
    assert (net(Square(300)(net, images, labels, eps=0.5)).argmax(1) != labels).all()


def test_the_start_is_stripes() -> None:
    images = torch.full((50, 3, 4, 8), 0.5)
    moved = (WINDOWS["linf"].start(problem_of(images), 0.1) - images) / 0.1
    torch.testing.assert_close(moved.abs(), torch.ones_like(moved))
    assert torch.equal(moved, moved[:, :, :1].expand_as(moved))
    assert abs(float(moved[:, :, 0].mean())) < 4 / (50 * 3 * 8) ** 0.5  # standard errors


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_a_candidate_differs_by_one_square_of_one_colour(side: int) -> None:
    images = torch.full((60, 3, 6, 9), 0.5)
    changed = WINDOWS["linf"].candidates(problem_of(images), images, 0.1, side**2 / 54, 1) - images
    for square in changed:
        rows, columns = (square[0].abs().amax(d) > 0.05 for d in (1, 0))
        assert rows.sum() == columns.sum() == side
        assert rows.nonzero().diff(dim=0).eq(1).all()
        inside = square[:, rows][:, :, columns]
        torch.testing.assert_close(inside, 0.1 * inside[:, :1, :1].sign().expand_as(inside))
        assert int((square != 0).sum()) == 3 * side * side
    other = WINDOWS["linf"].candidates(problem_of(images), images, 0.1, side**2 / 54, 2) - images
    assert (other != changed).flatten(1).any(1).float().mean() > 0.7


def test_bumps_are_the_papers() -> None:
    """η of section 4: nested rectangles that add 1, 1/4, 1/9, …, and two halves of opposite sign."""
    by_hand = torch.tensor([[1 / 4, 1 / 4, 1 / 4], [1 / 4, 1 + 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 4]])
    torch.testing.assert_close(_bump(3, 3), by_hand / by_hand.norm())
    flat, upright = _bumps(5, 5)
    torch.testing.assert_close(flat.norm(), torch.tensor(1.0))
    assert (flat[:2] > 0).all()
    assert (flat[2:] < 0).all()
    assert torch.equal(upright, flat.T)


@pytest.mark.parametrize("shape", [(1, 128, 20), (1, 20, 128), (3, 3, 200), (1, 32, 32)])
def test_the_l2_attack_starts_on_the_ball_with_five_tiles_a_side(shape: tuple[int, ...]) -> None:
    images = torch.full((4, *shape), 0.5)
    change = WINDOWS["l2"].start(problem_of(images, threat=ThreatModel("l2")), 0.2) - images
    torch.testing.assert_close(change.flatten(1).norm(dim=1), torch.full((4,), 0.2))
    assert (change != 0).float().mean() > 0.8


@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 7, 9), (20,), (4, 30)])
def test_l2_candidates_keep_the_length_and_change_two_windows(shape: tuple[int, ...]) -> None:
    """Images far from the bounds: every point is exactly eps away, and what lies outside both windows is scaled alone.

    The windows' place is not known here: the scale is that of most values.
    """
    images, share = torch.full((40, *shape), 0.5), 9 / 144
    problem = problem_of(images, threat=ThreatModel("l2"))
    points = WINDOWS["l2"].start(problem, 0.2)
    torch.testing.assert_close((points - images).flatten(1).norm(dim=1), torch.full((40,), 0.2))
    moved = WINDOWS["l2"].candidates(problem, points, 0.2, share, 1)
    before, after = (points - images).flatten(1), (moved - images).flatten(1)
    torch.testing.assert_close(after.norm(dim=1), torch.full((40,), 0.2))
    ratio = after / before
    kept = ((ratio - ratio.median(1, keepdim=True).values).abs() < 1e-3).float().mean(1)
    assert (kept > 0.4).all()
    assert (kept < 1).all()
    window = 2 * max(3, round(share * shape[-1])) / shape[-1] if len(shape) < 3 else 2 * 9 / (shape[1] * shape[2])
    assert ((after != 0).float().mean(1) >= 1 - window).all()


def test_l2_square_nears_the_worst_case_of_a_linear_network(images: Tensor) -> None:
    """On a vector of six values the closed form is x + eps·w/‖w‖, which random search nears."""
    weight = torch.tensor([[0.0] * 6, [3.0, -2.0, 1.0, 0.5, -0.5, 2.0]])
    linear: Any = nn.Linear(6, 2, bias=False)
    linear.weight.data = weight
    x = torch.rand(30, 6, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    attack = Square(queries=600, stop_when_lost=False)
    found = attack(linear, x, torch.zeros(30, dtype=torch.long), eps=0.1, norm="l2")
    gained = (found - x) @ weight[1] / (0.1 * weight[1].norm())
    assert gained.mean() > 0.9
    assert gained.max() < 1 + 1e-5


def test_squares_begin_anywhere_that_fits() -> None:
    words = torch.tensor([0, 2**32 - 1, 2**31])
    assert _inside(place(words, 3, 10), 3).int().argmax(1).tolist() == [0, 7, 4]
    assert _inside(place(words, 10, 10), 10).all()


def test_sides_follow_the_papers_schedule() -> None:
    """p is halved at 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000 of 10,000 queries."""
    images, used = torch.zeros(1, 3, 32, 32), (1, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    assert [sides(Square(10_000)._share(n), images)[0] for n in used] == [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    assert [sides(Square(100)._share(n), images)[0] for n in (0, 1, 99)] == [29, 14, 1]


class Noise(nn.Module):
    """Logits that are noise alone, where RNA acts on its one site."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.ones(len(x), 2)) + 0.0 * x.flatten(1)[:, :2]


def test_each_turn_asks_about_both_points_with_fresh_passes(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On noise alone that changes with the point, the present point loses half of all turns, and none stays for long.

    Held against its score of an earlier turn, the luckiest point of 300 would stay for most of the search.
    """
    asked: list[tuple[int, Tensor]] = []
    original = MonteCarlo.query

    def score(self: MonteCarlo, problem: Problem, block: int = 0) -> Any:
        asked.append((block, problem.images))
        found = original(self, problem, block)
        rng = torch.Generator().manual_seed(len(asked))
        return replace(found, loss=torch.randn(len(found.loss), generator=rng))

    monkeypatch.setattr(MonteCarlo, "query", score)
    noisy = saplab.defend(Noise(), saplab.RandomNoisyActivations(1.0))
    Square(600, passes=2, stop_when_lost=False)(noisy, images, torch.zeros(9, dtype=torch.long), eps=0.1)
    assert [block for block, _ in asked] == [turn for turn in range(300) for _ in "ab"]
    present = torch.stack([x for _, x in asked[::2]])
    candidates = torch.stack([x for _, x in asked[1::2]])
    differ = (candidates[:-1] != present[:-1]).flatten(2).any(2)
    taken = (present[1:] == candidates[:-1]).flatten(2).all(2)
    share = float(taken[differ].double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / int(differ.sum()) ** 0.5  # standard errors


def test_networks_that_are_not_random_are_asked_once_a_query(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    net = initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 0)
    seen: list[int] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    ready(net, images)
    seen.clear()
    Square(50, stop_when_lost=False)(net, images, net(images).argmax(1), eps=0.01)
    assert sum(seen) == 9 + 9 * 50


def test_bad_settings_are_refused() -> None:
    for settings, message in (
        ({"queries": 0}, "`queries` must be >= 1"),
        ({"passes": 0}, "`passes` must be >= 1"),
        ({"p_init": 0.0}, r"`p_init` must be in \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Square(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("random", "used"), [(True, range(0, 100, 2)), (False, range(99))])
def test_the_schedule_goes_by_the_queries_used(images, monkeypatch, random, used) -> None:
    """A random network is asked twice a turn, for the present point and for the candidate."""
    seen: list[int] = []
    share = Square._share
    monkeypatch.setattr(Square, "_share", lambda self, number: seen.append(number) or share(self, number))
    linear = initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 3)
    network = saplab.defend(linear, saplab.GaussianNoise(0.01)) if random else linear
    Square(queries=100, passes=1, stop_when_lost=False)(network, images, linear(images).argmax(1), eps=0.1)
    assert seen == list(used)

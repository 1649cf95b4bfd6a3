"""`saplab.mix` on networks whose game is solved by hand."""

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.evaluation.mixing import ENOUGH


class From(nn.Module):
    """Class 1 where sign · (x - threshold) is above 0."""

    def __init__(self, threshold: float, sign: float = 1.0) -> None:
        super().__init__()
        self.threshold, self.sign = threshold, sign

    def forward(self, x: Tensor) -> Tensor:
        above = 9 * self.sign * (x - self.threshold)
        return torch.cat((torch.zeros_like(above), above), 1)


ABOVE, BELOW = From(0.4).eval(), From(0.7, -1.0).eval()  # right above 0.4, and below 0.7, for class 1
# Within 0.2, the first image fools each of them, but at no point both; the second ABOVE alone, the third BELOW alone.
X, Y = torch.tensor([[0.55], [0.45], [0.65]]), torch.ones(3, dtype=torch.long)
ARGS = {"attacks": (), "eps": 0.2, "reply": saplab.ARC(rivals=1)}


def test_the_game_ends_with_the_weights_that_hand_finds() -> None:
    """Of weight a for ABOVE: min(a, 1 - a) + (1 - a) + a, which is largest at 1/2: 3/2 of three images."""
    found = saplab.mix([ABOVE, BELOW], X, Y, **ARGS)  # type: ignore[arg-type]
    assert found.settled
    assert found.weights == pytest.approx((0.5, 0.5))
    assert found.accuracy.estimate == pytest.approx(0.5)
    assert [left.estimate for left in found.alone] == pytest.approx([1 / 3, 1 / 3])
    assert found.mixture.weights.tolist() == pytest.approx([0.5, 0.5])
    assert len(found.rounds) > 1
    assert all(
        one.promised >= after.promised - 1e-9 for one, after in zip(found.rounds, found.rounds[1:], strict=False)
    )
    assert all(one.kept <= one.promised + 1e-9 for one in found.rounds)
    assert "round 1: weights" in repr(found)


def test_a_game_that_is_cut_short_says_so() -> None:
    found = saplab.mix([ABOVE, BELOW], X, Y, rounds=1, **ARGS)  # type: ignore[arg-type]
    assert found.rounds[0].promised == 1
    assert found.rounds[0].promised - found.rounds[0].kept > ENOUGH
    assert not found.settled
    assert "more rounds help" in repr(found)


def test_stored_points_begin_the_game() -> None:
    fooling = [torch.tensor([[0.36], [0.3], [0.65]]), torch.tensor([[0.74], [0.45], [0.8]])]
    found = saplab.mix([ABOVE, BELOW], X, Y, points=fooling, rounds=1, **ARGS)  # type: ignore[arg-type]
    assert found.settled
    assert found.weights == pytest.approx((0.5, 0.5))
    assert torch.equal(found.points[:3], torch.stack((X, *fooling)))
    assert found.right[:, :3].tolist() == [[[1, 1, 1], [0, 0, 1], [1, 1, 1]], [[1, 1, 1], [1, 1, 1], [0, 1, 0]]]


def test_a_network_that_nothing_fools_is_taken_alone() -> None:
    found = saplab.mix([ABOVE, From(0.0).eval()], X, Y, **ARGS)  # type: ignore[arg-type]
    assert found.weights == pytest.approx((0.0, 1.0))
    assert found.accuracy.estimate == 1


def test_bad_arguments_are_refused() -> None:
    for more, message in (
        ({"rounds": 0}, "`rounds` must be >= 1"),
        ({"points": [X + 0.3]}, r"`points` must be \(3, 1\), within 0.2 of the images"),
        ({"points": [X[:2]]}, r"`points` must be \(3, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            saplab.mix([ABOVE, BELOW], X, Y, **{**ARGS, **more})  # type: ignore[arg-type]

"""The best weights of a mixture, against games solved by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from saplab.metrics.mixing import best_weights, worst_of

# (M, A): which network is right at which point of one image
EACH_ALONE = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]  # each of three networks is fooled by a point of its own
FIRST_OR_OTHERS = [[0, 1], [1, 0], [1, 0]]  # a point fools the first, another one both others


def images(*kinds):
    return np.stack(kinds, axis=2).astype(float)


def test_weights_that_add_up_to_a_little_more_leave_no_more_than_everything():
    weights = [0.2, 0.2, 0.2, 0.3, 0.1]
    assert worst_of(np.ones((5, 2, 3)), np.array(weights) * (1 + 1e-15)).max() == 1.0


@pytest.mark.parametrize(
    ("right", "value", "weights"),
    [
        (images(EACH_ALONE), 2 / 3, (1 / 3, 1 / 3, 1 / 3)),
        (images(FIRST_OR_OTHERS), 1 / 2, None),
        (images([[0, 1], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [1, 1]]), 1 / 2, (1 / 2, 1 / 2)),
        (images([[0, 1], [1, 0]], [[1, 1], [0, 1]], [[1, 1], [0, 1]]), 2 / 3, (1, 0)),
        (images([[1, 1], [0, 0]]), 1, (1, 0)),
        (images([[0], [0]]), 0, None),
    ],
)
def test_games_solved_by_hand(right, value, weights):
    found, mixture = best_weights(right)
    assert found == pytest.approx(value)
    assert mixture.sum() == pytest.approx(1)
    assert worst_of(right, mixture).mean() == pytest.approx(value)
    if weights is not None:
        assert mixture == pytest.approx(weights)


def test_the_attacker_may_choose_a_point_for_each_image():
    """One attack for all images, as in `game_value`, would leave 3/4: each point fools one network on half of them."""
    right = np.array([[[0, 1], [1, 0]], [[1, 0], [0, 1]]], float)
    assert worst_of(right, [0.5, 0.5]).tolist() == [0.5, 0.5]
    assert best_weights(right)[0] == pytest.approx(0.5)


def test_no_weights_of_two_networks_leave_more():
    rng = np.random.default_rng(0)
    for _ in range(20):
        right = rng.integers(0, 2, (2, 4, 30)) * rng.random((2, 4, 30))
        value, _ = best_weights(right)
        best = min(
            minimize_scalar(lambda a, r=right: -worst_of(r, (a, 1 - a)).mean(), bounds=ends, method="bounded").fun
            for ends in ((0, 1), (0, 0.4), (0.6, 1))
        )
        assert value == pytest.approx(-best, abs=1e-5)


@pytest.mark.parametrize(
    ("right", "message"),
    [(np.zeros((2, 3)), r"shape \(M, A, N\), got \(2, 3\)"), (np.zeros((2, 0, 3)), "shape"),
     (np.full((1, 1, 1), 2.0), r"in \[0, 1\], got 2.0"), (np.full((1, 1, 1), np.nan), r"in \[0, 1\]")],
)  # fmt: skip
def test_what_is_no_table_of_scores_is_refused(right, message):
    with pytest.raises(ValueError, match=message):
        best_weights(right)

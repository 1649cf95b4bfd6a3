"""The game of defences against attacks: equilibria, their uniqueness and their intervals."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import saplab
from saplab.metrics.equilibrium import equilibrium
from saplab.metrics.resampling import resamples

TABLES = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 8).map(float))


def play(payoff, **settings):
    return saplab.game_value(payoff, replicates=40, **settings)


def test_rock_paper_scissors():
    game = play([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    assert game.value == pytest.approx(0, abs=1e-12)
    assert game.defender == pytest.approx([1 / 3] * 3)
    assert game.adversary == pytest.approx([1 / 3] * 3)
    assert game.several == ()


def test_a_saddle_point_is_played_purely():
    game = play([[3, 1, 4], [5, 2, 6], [1, 0, 9]])  # 2: the least of its row, the greatest of its column
    assert game.value == pytest.approx(2)
    assert game.defender.tolist() == pytest.approx([0, 1, 0])
    assert game.adversary.tolist() == pytest.approx([0, 1, 0])


def test_two_by_two_by_hand():
    # 0.9 x + 0.2 (1 - x) = 0.3 x + 0.8 (1 - x) at x = 1/2; 0.9 y + 0.3 (1 - y) = 0.2 y + 0.8 (1 - y) at y = 5/12.
    game = play([[0.9, 0.3], [0.2, 0.8]])
    assert game.value == pytest.approx(0.55)
    assert game.defender == pytest.approx([1 / 2, 1 / 2])
    assert game.adversary == pytest.approx([5 / 12, 7 / 12])


def test_dominated_rows_and_columns_are_not_played():
    game = play([[0.9, 0.3, 0.95], [0.2, 0.8, 0.85], [0.1, 0.2, 0.1]])
    assert game.value == pytest.approx(0.55)
    assert (game.defender[2], game.adversary[2]) == pytest.approx((0, 0), abs=1e-9)


@given(TABLES)
def test_neither_player_gains_by_leaving_the_equilibrium(table):
    value, x, y = equilibrium(table)
    assert (x.sum(), y.sum()) == pytest.approx((1, 1))
    assert min(x.min(), y.min()) >= 0
    assert np.all(x @ table >= value - 1e-6)
    assert np.all(table @ y <= value + 1e-6)


@given(TABLES, st.integers(0, 2**32 - 1))
def test_a_neighbours_supports_give_an_equilibrium_or_none(table, seed):
    moved = table + np.random.default_rng(seed).normal(0, 0.1, size=table.shape)
    value, x, y = equilibrium(moved, near=equilibrium(table))
    assert value == pytest.approx(equilibrium(moved)[0], abs=1e-5)
    assert np.all(x @ moved >= value - 1e-4)
    assert np.all(moved @ y <= value + 1e-4)


def test_a_false_neighbour_does_not_mislead():
    table = np.array([[0.9, 0.3], [0.2, 0.8]])
    half, pure = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    for near in ((0.0, pure, pure), (0.0, pure, half)):
        assert equilibrium(table, near)[0] == pytest.approx(0.55)
    saddle = np.array([[3.0, 1.0], [1.0, 0.0]])  # weights -1 and 2 would make both players indifferent
    assert equilibrium(saddle, (0.0, half, half))[0] == pytest.approx(1)


@given(TABLES, st.floats(0.1, 10), st.floats(-5, 5))
def test_value_follows_scale_and_shift(table, scale, shift):
    moved, _, _ = equilibrium(scale * table + shift)
    assert moved == pytest.approx(scale * equilibrium(table)[0] + shift, abs=1e-6)


def test_value_of_the_other_side_of_the_board():
    table = np.random.default_rng(0).random((3, 4))
    value, x, y = equilibrium(table)
    other, u, v = equilibrium(-table.T)
    assert other == pytest.approx(-value)
    assert (*u, *v) == pytest.approx((*y, *x), abs=1e-9)


def test_what_is_no_equilibrium_is_an_error(monkeypatch):
    wrong = SimpleNamespace(x=np.array([1.0, 0, 0]), ineqlin=SimpleNamespace(marginals=np.array([-1.0, 0])))
    monkeypatch.setattr("saplab.metrics.equilibrium._solve", lambda *_: wrong)
    with pytest.raises(RuntimeError, match="no equilibrium: a player gains"):
        equilibrium(np.array([[0.9, 0.3], [0.2, 0.8]]))


@pytest.mark.parametrize(
    ("table", "several"),
    [
        ([[1, 0], [1, 0], [0, 1]], ("defender",)),  # two defences alike
        ([[1, 1, 0], [0, 0, 1]], ("adversary",)),  # two attacks alike
        ([[1, 1], [1, 1]], ("defender", "adversary")),
        ([[0.5, 1, 0.2], [0.5, 0.2, 1]], ("defender",)),  # all of both, within bounds that the columns set
        ([[2, 1], [1, 0]], ()),
        ([[0.9, 0.3], [0.2, 0.8]], ()),
    ],
)
def test_other_equilibria_are_told_of(table, several):
    assert play(table).several == several


def test_intervals_cover_the_value():
    """100 samples of 300 images of a mixed game: at least 95 % less 4 standard errors."""
    rng = np.random.default_rng(1)
    truth = np.array([[0.9, 0.3], [0.2, 0.8]])
    found = [play(rng.random((2, 2, 300)) < truth[..., None]).value_interval for _ in range(100)]
    covered = np.mean([interval.low <= 0.55 <= interval.high for interval in found])
    assert covered > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 100)
    assert np.mean([interval.high - interval.low for interval in found]) < 0.12


def test_intervals_of_choices_that_no_resample_moves_are_named():
    rng = np.random.default_rng(2)
    scores = rng.random((2, 2, 200)) < np.array([[0.9, 0.5], [0.3, 0.1]])[..., None]
    game = play(scores, defenders=["SAP", "dense"], adversaries=["FGSM", "PGD"])
    assert game.degenerate == ("SAP", "dense", "FGSM", "PGD")
    assert game.value == pytest.approx(scores[0, 1].mean())
    assert game.value_interval.low < game.value < game.value_interval.high
    assert [i.estimate for i in game.defender_intervals] == pytest.approx([1, 0])
    assert [i.estimate for i in game.adversary_intervals] == pytest.approx([0, 1])
    assert {i.n for i in game.defender_intervals} == {200}


def test_all_cells_of_an_image_are_resampled_together():
    # what an image adds to every cell moves the value of the game, but not the mixtures
    images = np.random.default_rng(4).random(200)
    game = play(np.array([[0.9, 0.3], [0.2, 0.8]])[..., None] + images)
    for interval in (*game.defender_intervals, *game.adversary_intervals):
        assert interval.high - interval.low < 1e-9
    assert game.value_interval.high - game.value_interval.low > 2 * images.std() / np.sqrt(200)


def test_a_matrix_has_no_images_to_resample():
    game = play([[0.9, 0.3], [0.2, 0.8]])
    assert (game.value_interval, game.defender_intervals, game.degenerate) == (None, (), ())
    assert (game.defenders, game.adversaries[1]) == (("defender 1", "defender 2"), "adversary 2")


def test_scores_of_images_and_their_means_make_the_same_game():
    scores = np.random.default_rng(3).random((3, 2, 50))
    whole, means = play(scores), play(scores.mean(axis=2))
    assert whole.value == pytest.approx(means.value)
    assert whole.payoff == pytest.approx(means.payoff)


@pytest.mark.parametrize(
    ("payoff", "settings", "message"),
    [
        ([1, 2], {}, r"\(D, A\) or \(D, A, N\), got \(2,\)"),
        (np.zeros((2, 0)), {}, r"got \(2, 0\)"),
        ([[1, math.nan]], {}, "`payoff` must be finite"),
        ([[1, 2]], {"defenders": ["a", "b"]}, "`defenders` must be 1 different labels"),
        ([[1, 2]], {"adversaries": ["a", "a"]}, "`adversaries` must be 2 different labels"),
        ([[[1, 2]]], {"seed": 0.5}, "`seed` must be an integer"),
    ],
)
def test_game_value_refuses(payoff, settings, message):
    with pytest.raises(ValueError, match=message):
        play(payoff, **settings)


def test_labels_beside_a_dict_are_its_own_names_in_another_order():
    payoff = {"a": {"x": 0.9, "y": 0.1}, "b": {"x": 0.2, "y": 0.8}}
    found, other = saplab.game_value(payoff), saplab.game_value(payoff, ["b", "a"], ["y", "x"])
    assert other.defenders == ("b", "a")
    assert other.defender.tolist() == pytest.approx(found.defender[::-1].tolist())
    assert other.payoff.tolist() == [[0.8, 0.2], [0.1, 0.9]]
    with pytest.raises(ValueError, match="must be the names in `payoff`"):
        saplab.game_value(payoff, ["first", "second"])


def test_scores_of_unequal_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match="`payoff` must be numbers of the shape"):
        saplab.game_value({"a": {"x": [1, 0]}, "b": {"x": [1, 0, 1]}})


def test_the_values_interval_is_the_basic_bootstrap():
    """The best of four equal rows looks better than each is, and in a resample once more."""
    rows = np.random.default_rng(0).integers(0, 2, (4, 1, 100)).astype(float)
    found = saplab.game_value(rows, replicates=500)
    drawn = np.array([(rows[:, 0] @ w / 100).max() for w in resamples(100, 500, 0)])
    low, high = np.quantile(drawn, (0.025, 0.975), method="inverted_cdf")
    means = rows.mean(2)
    assert found.value == pytest.approx(means.max())
    ends = np.clip([2 * found.value - high, 2 * found.value - low], means.min(), means.max())
    assert (found.value_interval.low, found.value_interval.high) == pytest.approx(tuple(ends))

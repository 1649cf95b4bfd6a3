"""Points of games: Student's, Welch's and Fieller's intervals."""

import numpy as np
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp, ttest_ind

from saplab.metrics.scores import mean_score, permutation_p, relative_change, score_difference

DEFENDED = np.array([310.0, 250.0, 420.0, 280.0, 350.0])
SHAPE = np.array([-1.3, -0.4, 0.2, 0.5, 1.0])  # mean 0


def welch_freedom(a: np.ndarray, b: np.ndarray) -> float:
    """Return the degrees of freedom of mean(a) - ratio · mean(b), at the ratio of the means."""
    va, vb = a.var(ddof=1) / len(a), (a.mean() / b.mean()) ** 2 * b.var(ddof=1) / len(b)
    return (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))


def with_g(g: float) -> np.ndarray:
    """Return scores with mean 300 whose g = t² · var(mean) / mean², which Fieller's interval turns on, is `g`."""
    low, high = 1.0, 5000.0
    for _ in range(200):
        spread = (low + high) / 2
        scores = 300 + spread * SHAPE
        t = student_t.ppf(0.975, welch_freedom(DEFENDED, scores))
        low, high = (spread, high) if t**2 * scores.var(ddof=1) / 5 / 300**2 < g else (low, spread)
    return scores


@pytest.mark.parametrize("g", [0.01, 0.48, 0.5, 0.52, 0.9])
def test_fiellers_interval_holds_the_ratios_that_a_test_does_not_refuse(g: float):
    # its ends are the roots of (mean a - ratio * mean b)² = t² (var a + ratio² var b), variances of means
    original = with_g(g)
    va, vb = DEFENDED.var(ddof=1) / 5, original.var(ddof=1) / 5
    t = student_t.ppf(0.975, welch_freedom(DEFENDED, original))
    a, b = DEFENDED.mean(), original.mean()
    assert t**2 * vb / b**2 == pytest.approx(g)
    ends = np.sort(np.roots([b**2 - t**2 * vb, -2 * a * b, a**2 - t**2 * va]))
    found = relative_change(DEFENDED, original)
    assert (found.low, found.high) == pytest.approx(tuple(100 * (ends - 1)))
    assert found.percent == pytest.approx(100 * (a / b - 1))


@pytest.mark.parametrize("g", [1.001, 2.0])
def test_a_ratio_without_a_bounded_interval_is_left_blank(g: float):
    assert relative_change(DEFENDED, with_g(g)) is None
    assert relative_change(DEFENDED, -with_g(0.1)) is None
    assert relative_change(DEFENDED, [300.0]) is None


def test_no_points_at_all_leave_a_change_without_an_interval():
    """Nothing tells how often a defended agent that never scored would."""
    assert relative_change([0.0] * 30, [21.0] * 29 + [20.0]) is None
    assert relative_change([0.0] * 29 + [1.0], [21.0] * 30).low < -99


def test_a_mean_has_students_interval():
    found, expected = mean_score(DEFENDED), ttest_1samp(DEFENDED, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert str(found) == f"322.0 ±{found.high - 322:.1f}"
    assert (str(mean_score([5])), mean_score([5]).low) == ("5.0", None)


def test_a_difference_has_welchs_interval():
    other = 300 + 100 * SHAPE[:4]
    found = score_difference(DEFENDED, other)
    expected = ttest_ind(DEFENDED, other, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert score_difference(DEFENDED, [1.0]) is None


def test_games_that_all_end_alike_say_nothing_of_their_spread():
    """... as where every throw of a bowler is the same: an interval without width would be certain of anything."""
    assert score_difference([30.0] * 5, [29.0] * 5) is None
    assert relative_change([30.0] * 5, [29.0] * 5) is None
    assert score_difference([30.0] * 5, [29.0, 28.0]) is not None


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [[1.0]]])
def test_scores_refuse(scores):
    with pytest.raises(ValueError, match="`scores` must be finite numbers"):
        mean_score(scores)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5])
def test_a_permutation_test_agrees_with_welch_where_points_are_normal(shift: float):
    rng = np.random.default_rng(3)
    first, second = rng.normal(shift, 1, 80), rng.normal(0, 2, 120)
    assert permutation_p(first, second) == pytest.approx(ttest_ind(first, second, equal_var=False).pvalue, abs=0.02)


def test_where_nearly_all_games_end_alike_a_permutation_test_is_not_as_sure_as_welch():
    first, second = [30.0] * 38 + [31.0] * 4, [30.0] * 42
    difference = score_difference(first, second)
    assert difference is not None
    assert difference.low > 0
    assert permutation_p(first, second) == pytest.approx(0.116, abs=0.01)  # 2 · C(42, 4) / C(84, 4)


def test_rounding_tells_no_orders_of_games_apart():
    first, second = [101.0] * 5 + [100.0] * 3, [101.0] * 8
    scaled = permutation_p([1.1 * points for points in first], [1.1 * points for points in second])
    assert permutation_p(first, second) == scaled == pytest.approx(0.2, abs=0.01)  # 2 · C(13, 5) / C(16, 8)


def test_outcomes_that_never_overlap_are_told_apart():
    assert permutation_p([1.0] * 6, [0.0] * 6) == pytest.approx(2 / 924)  # C(12, 6)
    assert permutation_p([1.0] * 6, [1.0] * 6) == 1

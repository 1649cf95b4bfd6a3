"""Accuracy and intervals: Wilson, paired differences, and what they refuse."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from saplab.metrics import (
    Interval,
    accuracy,
    correct,
    mean_interval,
    paired_difference,
    pass_shares,
    single_pass_accuracy,
)


def one_hot(classes, count=3):
    return np.eye(count)[classes]


def votes_of(shares, passes):
    right = np.round(np.asarray(shares) * passes).astype(np.int32)
    return np.stack([right, passes - right], axis=1), np.zeros(len(right), np.int64)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_accuracy_is_scipys_wilson_interval(hits_of):
    hits, n = hits_of
    found = accuracy(one_hot([0] * hits + [1] * (n - hits)), np.zeros(n, int))
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert (found.estimate, found.n) == (hits / n, n)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_accuracy_by_hand():
    # 8 of 10: centre (0.8 + z²/20) / (1 + z²/10), z = 1.95996
    assert accuracy(one_hot([1] * 8 + [2] * 2), [1] * 10).percent(2) == "80.00 % [49.02, 94.33]"


def test_interval_reaches_the_ends_exactly():
    assert accuracy(one_hot([0, 0]), [1, 1]).low == 0.0
    assert accuracy(one_hot([0, 0]), [0, 0]).high == 1.0


def test_first_of_equal_probabilities_wins():
    assert correct([[0.5, 0.5]], [0]).tolist() == [True]
    assert correct([[0.5, 0.5]], [1]).tolist() == [False]


def test_pass_shares_are_shares_of_each_images_own_passes():
    votes = np.array([[3, 1, 0], [0, 5, 5]], np.int32)
    assert pass_shares(votes, [0, 2]).tolist() == [0.75, 0.5]
    assert single_pass_accuracy(votes, [0, 2]).estimate == 0.625


def test_single_pass_accuracy_of_one_pass_is_accuracy():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, size=200)
    labels = rng.integers(0, 3, size=200)
    votes = one_hot(classes).astype(np.int32)
    a, b = accuracy(votes, labels), single_pass_accuracy(votes, labels)
    assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=1e-12)


@pytest.mark.parametrize("right", [0, 70, 100])
def test_more_passes_of_decided_images_are_no_more_evidence(right):
    decided = [1.0] * right + [0.0] * (100 - right)
    once, often = (single_pass_accuracy(*votes_of(decided, passes)) for passes in (1, 1000))
    assert (once.low, once.high) == pytest.approx((often.low, often.high), abs=1e-12)


def test_passes_of_like_images_are_independent_evidence():
    """Images with one and the same chance: the N · passes trials are independent, and count as that many."""
    found = single_pass_accuracy(*votes_of([0.5] * 100, 10))
    expected = binomtest(500, 1000).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_effective_number_by_hand():
    # Shares 0.5 and 1: p = 0.75, variance 1/16, so p (1 - p) N / variance = 3 N.
    found = mean_interval([0.5] * 20 + [1.0] * 20, passes=10)
    expected = binomtest(90, 120).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    # Shares 0.4 and 0.6: p (1 - p) N / variance = 25 N, but there are 10 N passes.
    found = mean_interval([0.4] * 20 + [0.6] * 20, passes=10)
    expected = binomtest(200, 400).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("share", "then", "else_"), [(0.01, 0.0, 0.999), (0.01, 1.0, 0.001), (0.02, 0.0, 0.999)])
def test_a_few_images_that_are_unlike_the_others_may_be_missing_from_a_sample(share, then, else_):
    """One in a hundred is always wrong, the others hardly ever: a sample without one knows nothing of it."""
    rng = np.random.default_rng(3)
    truth, covered = share * then + (1 - share) * else_, 0
    for _ in range(400):
        chances = np.where(rng.random(100) < share, then, else_)
        found = mean_interval(rng.binomial(100, chances) / 100, 100)
        covered += found.low <= truth <= found.high
    assert covered >= 0.93 * 400


def test_the_fewest_passes_bound_what_passes_are_worth():
    """Passes of one image by the thousand are no evidence about others."""
    votes = [[50, 50]] * 99
    assert single_pass_accuracy([*votes, [50_000, 50_000]], [0] * 100) == single_pass_accuracy(
        [*votes, [50, 50]], [0] * 100
    )


def test_single_pass_interval_covers_the_truth_in_95_percent_of_samples():
    """4,000 samples of 100 images from a known population: the hit rate is within 4 standard errors of 95 %."""
    rng = np.random.default_rng(1)
    population = rng.beta(2, 1, size=(4000, 100))  # mean 2/3
    shares = rng.binomial(20, population) / 20
    found = [mean_interval(row, passes=20) for row in shares]
    covered = np.mean([interval.low <= 2 / 3 <= interval.high for interval in found])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def pairs(both, first, second, neither):
    a = [1] * (both + first) + [0] * (second + neither)
    b = [1] * both + [0] * first + [1] * second + [0] * neither
    return paired_difference(a, b)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, method 10
        ((14, 5, 0, 22), 0.0115, 0.2265),  # Altman et al., Statistics with Confidence, table 6.2
    ],
)
def test_paired_difference_gives_published_intervals(table, low, high):
    found = pairs(*table)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.estimate == pytest.approx((table[1] - table[2]) / sum(table))


def test_paired_difference_changes_sign_with_its_arguments():
    forward, back = pairs(20, 9, 3, 8), pairs(20, 3, 9, 8)
    assert (back.low, back.high) == pytest.approx((-forward.high, -forward.low), abs=1e-12)


def test_paired_difference_of_the_same_is_zero_and_still_uncertain():
    found = paired_difference([1, 0, 1, 1], [1, 0, 1, 1])
    assert found.estimate == 0
    assert found.low < 0 < found.high


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(2)
    first = rng.random(400) < 0.6
    same, other = first.copy(), rng.permutation(first)
    same[:10] = ~same[:10]
    narrow, wide = paired_difference(first, same), paired_difference(first, other)
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(1, 100))
def test_interval_holds_its_estimate(scores, passes):
    found = mean_interval(scores, passes)
    assert 0 <= found.low <= found.estimate + 1e-9
    assert found.estimate - 1e-9 <= found.high <= 1


def test_percent_text():
    assert Interval(0.85234, 0.831, 0.871, 100).percent() == "85.2 % [83.1, 87.1]"


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        ([0.5, 0.5], [0], "`probs` must have the shape"),
        (np.zeros((0, 3)), [], "at least one image"),
        (one_hot([0, 1]), [0], r"`labels` must have the shape \(2,\), got \(1,\)"),
        (one_hot([0]), [0.5], "`labels` must be whole numbers, got float64"),
        (one_hot([0]), [3], r"`labels` must be in 0\.\.2, got 3 to 3"),
        (one_hot([0]), [-1], r"`labels` must be in 0\.\.2"),
        ([[2.0, -1.0]], [0], r"`probs` must be in \[0, 1\], got -1.0 to 2.0"),
        ([[np.nan, 1.0]], [0], r"`probs` must be in \[0, 1\]"),
    ],
)
def test_accuracy_refuses(probs, labels, message):
    with pytest.raises(ValueError, match=message):
        accuracy(probs, labels)


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([[0.5, 0.5]], "`votes` must be counts, got float64"),
        ([[-1, 2]], "`votes` must be counts"),
        ([[1, 0], [0, 0]], "got none of image 1"),
    ],
)
def test_single_pass_accuracy_refuses(votes, message):
    with pytest.raises(ValueError, match=message):
        single_pass_accuracy(votes, [0] * len(votes))


@pytest.mark.parametrize("scores", [[], [1.5], [-0.1], [float("nan")], [[0.5]]])
def test_mean_interval_refuses(scores):
    with pytest.raises(ValueError, match="`scores` must be numbers in"):
        mean_interval(scores)


def test_paired_difference_refuses_other_images():
    with pytest.raises(ValueError, match="same images"):
        paired_difference([1, 0], [1])


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_mean_interval_at_another_confidence(confidence):
    found = mean_interval([1] * 30 + [0] * 70, confidence=confidence)
    expected = binomtest(30, 100).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_paired_difference_at_another_confidence_by_hand():
    # Nothing in common (phi = 0): Newcombe's interval from two Wilson intervals of the same confidence.
    a, b = [1, 1, 0, 0] * 25, [1, 0, 1, 0] * 25
    found = paired_difference(a, b, confidence=0.99)
    half = 0.5 - binomtest(50, 100).proportion_ci(0.99, method="wilson").low
    assert (found.low, found.high) == pytest.approx((-half * math.sqrt(2), half * math.sqrt(2)), abs=1e-12)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, float("nan")])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=r"`confidence` must be in \(0, 1\)"):
        mean_interval([0, 1], confidence=confidence)

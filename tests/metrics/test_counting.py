"""Counting passes, seeds and attacks: `saplab.metrics.counting`, `seeds` and `worst_case`."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, ttest_1samp
from scipy.stats import t as student_t

from saplab.metrics import count, over_seeds, right_by_majority, right_in_all, right_in_any, worst_case


def test_majority_and_the_first_of_equals():
    votes = np.array([[6, 4, 0], [4, 6, 0], [5, 5, 0], [5, 5, 0]])
    assert right_by_majority(votes, [0, 0, 0, 1]).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("hits", "passes", "of"), [(7, 10, 3), (2, 10, 3), (10, 10, 4), (0, 6, 2), (5, 8, 8), (8, 8, 8)]
)
def test_right_in_all_and_any_are_shares_of_the_subsets_of_passes(hits, passes, of):
    outcomes = [1] * hits + [0] * (passes - hits)
    subsets = list(combinations(outcomes, of))
    votes = [[hits, passes - hits]]
    assert right_in_all(votes, [0], of)[0] == pytest.approx(np.mean([all(s) for s in subsets]), abs=1e-12)
    assert right_in_any(votes, [0], of)[0] == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-12)


@given(st.integers(0, 100), st.integers(1, 10), st.integers(0, 30))
def test_right_in_all_is_unbiased(percent, of, more):
    """The expectation over the binomial law of hits, summed exactly, is the chance p^m itself."""
    p, passes = percent / 100, of + more
    hits = np.arange(passes + 1)
    votes, labels = np.stack([hits, passes - hits], 1), np.zeros(passes + 1, int)
    law = binom.pmf(hits, passes, p)
    assert law @ right_in_all(votes, labels, of) == pytest.approx(p**of, abs=1e-9)
    assert law @ right_in_any(votes, labels, of) == pytest.approx(1 - (1 - p) ** of, abs=1e-9)


def test_count_by_hand():
    votes = np.array([[10, 0], [6, 4], [3, 7], [0, 10]])
    probs = [[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]]
    found = count(probs, votes, [0] * 4)
    assert (found.averaged.estimate, found.majority.estimate, found.single_pass.estimate) == pytest.approx(
        (0.5, 0.5, 0.475)
    )
    assert (found.in_all.estimate, found.in_any.estimate) == (0.25, 0.75)
    assert (found.of, found.passes) == (10, 10)


def test_blocks_of_passes_over_images_alike_are_independent_evidence():
    found = count([[0.9, 0.1]] * 30, [[19, 1]] * 30, [0] * 30).in_all  # 1 - 10/20 of the tens are all right
    expected = binomtest(30, 60).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_count_leaves_out_what_fewer_passes_cannot_tell():
    found = count([[0.6, 0.4]], [[3, 2]], [0])
    assert (found.in_all, found.in_any, found.passes) == (None, None, 5)


def test_too_few_passes_are_refused():
    with pytest.raises(ValueError, match="at least 10 passes of every image, got 9"):
        right_in_all([[20, 0], [9, 0]], [0, 0])
    with pytest.raises(ValueError, match="`of` must be >= 1, got 0"):
        count([[1.0, 0.0]], [[5, 0]], [0], of=0)


def test_noise_over_seeds_is_students_interval():
    rng = np.random.default_rng(3)
    right = rng.random((6, 50)) < 0.6
    found = over_seeds(right)
    expected = ttest_1samp(right.mean(axis=1), 0).confidence_interval(0.95)
    assert (found.noise.low, found.noise.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.deviation == pytest.approx(np.std(right.mean(axis=1), ddof=1))
    assert (found.seeds, found.images.estimate) == (6, pytest.approx(right.mean()))


def test_seeds_that_agree_leave_the_images_alone():
    rng = np.random.default_rng(4)
    found = over_seeds(np.repeat(rng.random((1, 4000)) < 0.3, 5, axis=0))
    assert found.noise.low == found.noise.high == found.images.estimate
    assert (found.combined.low, found.combined.high) == pytest.approx((found.images.low, found.images.high), abs=1e-5)


def test_combined_interval_by_hand():
    """Images at 0.25, 0.45, 0.95 and seeds at -0.05, 0.05, without an error: MS 0.26 and 0.015 (2 and 1 degrees)."""
    found = over_seeds([[0.2, 0.4, 0.9], [0.3, 0.5, 1.0]]).combined
    freedom = 0.275**2 / (0.26**2 / 2 + 0.015**2)
    trials = 0.55 * 0.45 * 6 / 0.275
    for end in (found.low, found.high):  # what defines Wilson's interval
        assert abs(end - 0.55) == pytest.approx(student_t.ppf(0.975, freedom) * math.sqrt(end * (1 - end) / trials))


def test_combined_interval_covers_images_and_seeds():
    """Images and seeds drawn anew 2,000 times: 95 % within 4 standard errors, where the images alone fall short."""
    rng = np.random.default_rng(5)
    images, seeds = rng.normal(0.3, 0.5, (2000, 1, 150)), rng.normal(0, 0.25, (2000, 8, 1))
    truth = norm.cdf(0.3 / math.sqrt(1 + 0.5**2 + 0.25**2))
    right = images + seeds + rng.normal(size=(2000, 8, 150)) > 0
    found = [over_seeds(row) for row in right]
    covered = np.mean([f.combined.low <= truth <= f.combined.high for f in found])
    alone = np.mean([f.images.low <= truth <= f.images.high for f in found])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
    assert alone < 0.8


@pytest.mark.parametrize(
    ("right", "message"), [([[1, 0]], "at least 2 seeds"), ([1, 0], "shape"), ([[1, 2], [0, 0]], r"in \[0, 1\]")]
)
def test_over_seeds_refuses(right, message):
    with pytest.raises(ValueError, match=message):
        over_seeds(right)


def two_classes(margin):
    """Probabilities (…, 2) whose first class leads by `margin`."""
    return np.stack([0.5 + np.asarray(margin) / 2, 0.5 - np.asarray(margin) / 2], axis=-1)


def test_worst_case_of_a_network_without_randomness_is_the_plain_minimum_over_nested_balls():
    rng = np.random.default_rng(6)
    probs = rng.dirichlet(np.ones(3), size=(4, 3, 50))
    labels = rng.integers(0, 3, size=50)
    right = probs.argmax(axis=-1) == labels  # (A, L, N)
    expected = np.logical_and.accumulate(right.all(axis=0), axis=0)
    assert np.array_equal(worst_case([probs, probs], (1, 2, 4), labels), expected)


def test_worst_case_nests_by_strength_not_by_order():
    probs = two_classes([[[-0.5], [0.5]]])
    assert worst_case([probs, probs], (8, 1), [0]).tolist() == [[0.0], [1.0]]


def test_worst_case_by_hand():
    # Half 1 finds attack 1 worse, under which half 2 is right; half 2 finds attack 2 worse, under which half 1 errs.
    first, second = two_classes([[[-0.2]], [[-0.1]]]), two_classes([[[0.3]], [[0.1]]])
    assert worst_case([first, second], (1,), [0]).tolist() == [[0.5]]


def test_worst_case_counts_the_first_of_equal_probabilities():
    tie, right = two_classes([[[0.0]]]), two_classes([[[0.4]]])
    halves = np.concatenate([tie, right])
    assert worst_case([halves, halves], (1,), [0]).tolist() == [[1.0]]
    assert worst_case([tie, tie], (1,), [1]).tolist() == [[0.0]]
    wrong_tie = [[[[0.4, 0.4, 0.2]]], [[[0.4, 0.2, 0.4]]]]  # label 1: wrong by a tie, and wrong
    assert worst_case([wrong_tie, wrong_tie], (1,), [1]).tolist() == [[0.0]]
    ties = [[[[0.2, 0.4, 0.4]]], [[[0.4, 0.4, 0.2]]]]  # label 1: right by a tie, and wrong by a tie
    assert worst_case([ties, ties], (1,), [1]).tolist() == [[0.0]]


def test_an_image_right_by_a_tie_alone_is_nearest_to_wrong():
    first, second = two_classes([[[0.0]], [[0.4]]]), two_classes([[[-0.1]], [[0.4]]])
    assert worst_case([first, second], (1,), [0]).tolist() == [[0.5]]


def test_cross_fitting_is_unbiased_where_the_plain_minimum_is_not():
    """Twelve attacks alike, 20,000 images: the truth within 4 standard errors, and the minimum 20 of them below."""
    rng = np.random.default_rng(7)
    images, noise = 20_000, 0.1
    mean = rng.uniform(-0.3, 0.3, size=images)
    halves = np.clip(mean + rng.normal(0, noise, size=(2, 12, 1, images)), -1, 1)
    truth = norm.cdf(mean / noise)
    found = worst_case(two_classes(halves), (1,), np.zeros(images, int))[0]
    error = np.std(found - truth) / math.sqrt(images)
    plain = (halves.mean(axis=0) > 0).all(axis=(0, 1))
    assert abs(np.mean(found - truth)) < 4 * error
    assert np.mean(plain - truth) < -20 * error


def test_cross_fitting_finds_the_attack_that_is_worst_for_each_image():
    rng = np.random.default_rng(8)
    margin = np.where(np.arange(2)[:, None] == rng.integers(0, 2, size=1000), -0.5, 0.5)[:, None]
    halves = np.clip(margin + rng.normal(0, 0.05, size=(2, 2, 1, 1000)), -1, 1)
    assert worst_case(two_classes(halves), (1,), np.zeros(1000, int)).sum() == 0


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((2, 1, 3, 4), [0] * 4, r"\(2, A, 1, N, C\)"),
        ((3, 1, 1, 4, 2), [0] * 4, r"\(2, A, 1, N, C\)"),
        ((2, 1, 2, 4, 2), [0] * 4, r"\(2, A, 1, N, C\)"),
        ((2, 1, 1, 4, 2), [0] * 3, "one class for each image"),
        ((2, 1, 1, 4, 2), [2] * 4, r"whole numbers in 0\.\.1"),
    ],
)
def test_worst_case_refuses(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        worst_case(np.zeros(shape), (1,), labels)


def test_worst_case_refuses_logits():
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\], got -3.0 to 2.0"):
        worst_case(np.broadcast_to([2.0, -3.0], (2, 1, 1, 1, 2)), (1,), [0])

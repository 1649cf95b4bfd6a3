import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, ttest_1samp

from saplab.measures import (
    Interval,
    accuracy,
    correct,
    count,
    mcnemar,
    mean_interval,
    over_seeds,
    paired_difference,
    pass_shares,
    right_by_majority,
    right_in_all,
    right_in_any,
    single_pass_accuracy,
    worst_case,
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


def test_more_passes_of_decided_images_are_no_more_evidence():
    decided = [1.0] * 70 + [0.0] * 30
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


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test_of_the_images_that_differ(only_first, only_second):
    first = [1] * only_first + [0] * only_second + [1, 0]
    second = [0] * only_first + [1] * only_second + [1, 0]
    differ = only_first + only_second
    expected = binomtest(only_first, differ).pvalue if differ else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_by_hand():
    assert mcnemar([1] * 5 + [0], [0] * 6) == 2 / 2**5


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [([1, 0], [1], "same images"), ([], [], "same images"), ([0.5, 1], [1, 1], "must be 0 or 1")],
)
def test_mcnemar_refuses(first, second, message):
    with pytest.raises(ValueError, match=message):
        mcnemar(first, second)


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

"""The worst of several attacks on each image, cross-fitted."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from saplab.metrics import worst_case


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
        ((2, 1, 1, 4, 2), [0] * 3, r"`labels` must have the shape \(4,\), got \(3,\)"),
        ((2, 1, 1, 4, 2), [2] * 4, r"`labels` must be in 0\.\.1"),
    ],
)
def test_worst_case_refuses(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        worst_case(np.zeros(shape), (1,), labels)


def test_worst_case_refuses_logits():
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\], got -3.0 to 2.0"):
        worst_case(np.broadcast_to([2.0, -3.0], (2, 1, 1, 1, 2)), (1,), [0])

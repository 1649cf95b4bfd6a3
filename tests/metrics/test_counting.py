"""Accuracy in five senses, from counts of passes."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from saplab.metrics import count
from saplab.metrics.counting import left_after, right_by_majority


def test_majority_and_the_first_of_equals():
    votes = np.array([[6, 4, 0], [4, 6, 0], [5, 5, 0], [5, 5, 0]])
    assert right_by_majority(votes, [0, 0, 0, 1]).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("hits", "passes", "tries"), [(7, 10, 3), (2, 10, 3), (10, 10, 4), (0, 6, 2), (5, 8, 8), (8, 8, 8), (3, 7, 1)]
)
def test_what_is_left_is_the_share_of_the_subsets_of_passes_that_are_all_right(hits, passes, tries):
    subsets = list(combinations([1] * hits + [0] * (passes - hits), tries))
    assert left_after([hits], [passes], tries)[0] == pytest.approx(np.mean([all(s) for s in subsets]), abs=1e-12)


@given(st.integers(0, 100), st.integers(1, 100), st.integers(0, 30))
def test_what_is_left_is_unbiased(percent, tries, more):
    """The expectation over the binomial law of hits, summed exactly, is the chance (1 - p)^k itself."""
    right, passes = percent / 100, tries + more
    hits = np.arange(passes + 1)
    law = binom.pmf(hits, passes, right)
    assert law @ left_after(hits, np.full(passes + 1, passes), tries) == pytest.approx(right**tries, abs=1e-9)


def test_count_by_hand():
    votes = np.array([[10, 0], [6, 4], [3, 7], [0, 10]])
    probs = [[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]]
    found = count(probs, votes, [0] * 4, tries=(2, 10, 11))
    assert (found.averaged.estimate, found.majority.estimate, found.single_pass.estimate) == pytest.approx(
        (0.5, 0.5, 0.475)
    )
    assert {k: left.estimate for k, left in found.after.items()} == pytest.approx(
        {2: (1 + 15 / 45 + 3 / 45) / 4, 10: 0.25}
    )
    assert found.passes == 10


def test_blocks_of_passes_over_images_alike_are_independent_evidence():
    found = count([[0.9, 0.1]] * 30, [[19, 1]] * 30, [0] * 30).after[10]  # 1 - 10/20 of the tens are all right
    expected = binomtest(30, 60).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_count_leaves_out_what_fewer_passes_cannot_tell():
    found = count([[0.6, 0.4]], [[3, 2]], [0])
    assert (dict(found.after), found.passes) == ({}, 5)
    assert list(count([[0.6, 0.4]], [[60, 40]], [0]).after) == [10, 100]


def test_too_few_passes_are_refused():
    with pytest.raises(ValueError, match="`passes` must be at least 10, the tries, for every image, got 9"):
        left_after([20, 9], [20, 9], 10)
    with pytest.raises(ValueError, match="`tries` must be >= 1, got 0"):
        left_after([5], [5], 0)

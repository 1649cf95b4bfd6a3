"""Accuracy in five senses, from counts of passes."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from saplab.metrics import count
from saplab.metrics.counting import right_by_majority, right_in_all, right_in_any


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

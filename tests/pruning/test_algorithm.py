"""The oracle: Algorithm 1 as printed, against exact fractions and the exact law of kept sets."""

from fractions import Fraction

import numpy as np
import pytest
from exact_law import LEVEL, chi_square, count_kept_sets, kept_set_law
from hypothesis import given, settings
from hypothesis import strategies as st

from saplab.pruning.algorithm import inclusion, probabilities, prune

MAPS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12).map(np.array)


def exact_inclusion(p: float, draws: int) -> float:
    return float(1 - (1 - Fraction(p)) ** draws)


@pytest.mark.parametrize("p", [1e-300, 1e-20, 1e-9, 1e-3, 0.1, 0.5, 0.999, 1 - 2**-53, 1.0])
@pytest.mark.parametrize("draws", [1, 2, 10, 1000])
def test_inclusion_does_not_cancel(p: float, draws: int) -> None:
    assert inclusion(np.array([p]), draws)[0] == pytest.approx(exact_inclusion(p, draws), rel=1e-13, abs=0)


def test_inclusion_of_very_many_draws() -> None:
    assert inclusion(np.array([0.0, 1e-12, 1e-6, 1.0]), 10**12) == pytest.approx([0, 1 - np.exp(-1), 1, 1], rel=1e-10)


def test_probabilities_by_hand() -> None:
    assert probabilities(np.array([-3.0, 0.0, 1.0])).tolist() == [0.75, 0.0, 0.25]


def test_pruning_by_hand() -> None:
    # one draw keeps exactly one activation, scaled to the whole mass
    outs = {tuple(prune(np.array([-3.0, 0.0, 1.0]), 1, np.random.default_rng(k)).round(14)) for k in range(40)}
    assert outs == {(-4.0, 0.0, 0.0), (0.0, 0.0, 4.0)}


def test_a_lone_activation_stays_as_it_is() -> None:
    assert prune(np.array([0.0, -2.5, 0.0]), 3, np.random.default_rng(0)).tolist() == [0.0, -2.5, 0.0]


def test_a_map_of_zeros_gives_zeros() -> None:
    assert prune(np.zeros(5), 3, np.random.default_rng(0)).tolist() == [0.0] * 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        prune(np.array([1.0, value]), 3, np.random.default_rng(0))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(MAPS, st.integers(1, 20), st.integers(0, 1000))
def test_every_output_is_zero_or_scaled(h, draws, seed) -> None:
    before = h.copy()
    out = prune(h, draws, np.random.default_rng(seed))
    kept = out != 0
    assert np.array_equal(h, before)
    assert kept.sum() <= draws
    assert kept.any() == h.any()
    p = np.abs(h[kept]) / max(np.abs(h).sum(), 1e-300)
    expected = [value / exact_inclusion(share, draws) for value, share in zip(h[kept], p, strict=True)]
    assert out[kept] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "draws"), [((5, 3, 2), 1), ((5, 3, 2, 0), 4), ((997, 1, 1, 1), 6), ((4, 3, 2, 1, 1), 5), ((1, 1, 1), 8)]
)
def test_joint_law_of_the_kept_set(weights, draws) -> None:
    h = np.array(weights) * np.where(np.arange(len(weights)) % 2, -0.1, 0.1)
    generator = np.random.default_rng(0)
    outs = np.stack([prune(h, draws, generator) for _ in range(4000)])
    assert chi_square(count_kept_sets(outs != 0), kept_set_law(weights, draws)) > LEVEL


def test_the_exact_law_by_hand() -> None:
    # two draws from (1/2, 1/4, 1/4): kept {0}, {1}, {0, 1}, {2}, {0, 2}, {1, 2}
    assert kept_set_law((2, 1, 1), 2).tolist() == [0, 1 / 4, 1 / 16, 1 / 4, 1 / 16, 1 / 4, 1 / 8, 0]

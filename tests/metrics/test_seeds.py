"""Accuracy over several seeds: intervals for other images, other seeds, and both."""

import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp
from scipy.stats import t as student_t

from saplab.metrics import over_seeds


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
    """Four images each at 0.25, 0.45, 0.95, seeds at -0.05, 0.05, without an error: MS 2.08 / 11 and 0.06."""
    found = over_seeds([[0.2, 0.4, 0.9] * 4, [0.3, 0.5, 1.0] * 4]).combined
    of_images, of_seeds = 2.08 / 11, 0.06  # by 11 degrees of freedom and 1
    total = of_images + of_seeds
    freedom = total**2 / (of_images**2 / 11 + of_seeds**2)
    trials = 0.55 * 0.45 * 24 / total
    for end in (found.low, found.high):  # what defines Wilson's interval
        assert abs(end - 0.55) == pytest.approx(student_t.ppf(0.975, freedom) * math.sqrt(end * (1 - end) / trials))


def test_seeds_whose_means_agree_by_luck_are_not_without_noise():
    """Two that differ on every image: as if each image drew for itself, MS 0.5, over 100 images and 2 seeds."""
    found = over_seeds([[1, 0] * 50, [0, 1] * 50])
    half = student_t.ppf(0.975, 1) * math.sqrt((100 * 0.5 / 99) / 100) / math.sqrt(2)
    assert found.deviation == 0
    assert found.noise.high - 0.5 == pytest.approx(min(half, 0.5))
    assert found.noise.low == pytest.approx(max(0.5 - half, 0))


@pytest.mark.parametrize("size", range(2, 12))
def test_rounding_makes_no_interval_certain(size):
    """Each image is right under one seed alone: means of rows and columns agree but for their last bits."""
    found = over_seeds(np.eye(size))
    assert found.combined.high - found.combined.low > 0.2
    assert found.noise.high > found.noise.low


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

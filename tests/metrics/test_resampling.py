"""The bootstrap's resamples: their law, and what they depend on."""

import numpy as np
import pytest
from exact_law import LEVEL, chi_square
from scipy.stats import binom

from saplab.metrics.resampling import resamples

DRAWN = np.stack(list(resamples(50, 2000, seed=1)))


def test_a_resample_has_as_many_images_as_there_are():
    assert DRAWN.shape == (2000, 50)
    assert (DRAWN.sum(axis=1) == 50).all()


def test_every_image_is_drawn_equally_often_and_independently():
    # the count of an image is Binomial(50, 1/50); counts of two images correlate by -1/49
    law = binom(50, 1 / 50)
    seen = np.bincount(DRAWN.astype(int).ravel(), minlength=51)
    assert chi_square(seen, law.pmf(np.arange(51))) > LEVEL
    assert np.abs(DRAWN.mean(axis=0) - 1).max() < 5 * np.sqrt(law.var() / 2000)
    correlations = np.corrcoef(DRAWN.T)[~np.eye(50, dtype=bool)]
    assert np.abs(correlations + 1 / 49).max() < 5 / np.sqrt(2000)


def test_a_replicate_is_a_function_of_seed_and_number():
    few = list(resamples(50, 3, seed=1))
    assert np.array_equal(few, DRAWN[:3])
    assert not np.array_equal(few, list(resamples(50, 3, seed=2)))
    assert len(np.unique(DRAWN, axis=0)) == 2000


@pytest.mark.parametrize(
    ("replicates", "seed", "message"), [(1, 0, "`replicates` must be >= 2"), (2, -1, "`seed`"), (2, True, "`seed`")]
)
def test_resamples_refuse(replicates, seed, message):
    with pytest.raises(ValueError, match=message):
        next(resamples(5, replicates, seed))

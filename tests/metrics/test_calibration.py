"""Calibration: bins, errors and intervals by hand, against other libraries and against the truth."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision_operators import declare_torchvision_operators

import saplab
from saplab.metrics.calibration import Reliability, _bin_sums, _diagram

declare_torchvision_operators()  # torchmetrics imports torchvision


def predictions(n, classes=10, concentration=0.3, seed=0):
    """Probabilities in float64, and labels drawn from them: calibrated."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, concentration), size=n)
    return probs, (probs.cumsum(axis=1) > rng.random((n, 1)) * (1 - 1e-9)).argmax(axis=1)


def measured(probs, labels, bins=15, **settings):
    return saplab.calibration(probs, labels, bins, replicates=20, **settings)


def bin_confidences(confidence, right, bins=10) -> Reliability:
    """Return the diagram of confidences (N,), given whether each prediction is right (N,)."""
    return _diagram(_bin_sums(np.array([confidence], np.float64), np.array([right], np.float64), bins))


def test_bins_by_hand():
    """Six confidences in four bins: 0 and 1 in the outermost, an edge in the lower one, one bin empty."""
    found = bin_confidences([0.0, 0.25, 0.3, 0.5, 1.0, 0.9], [0, 1, 1, 0, 1, 1], bins=4)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.counts.tolist() == [2, 2, 0, 2]
    assert found.confidence == pytest.approx([0.125, 0.4, math.nan, 0.95], nan_ok=True)
    assert found.accuracy == pytest.approx([0.5, 0.5, math.nan, 1.0], nan_ok=True)


def test_confidences_0_and_1_at_any_number_of_bins():
    for bins in (1, 2, 3, 7, 10, 15):
        found = bin_confidences([0.0, 1.0], [0, 1], bins)
        assert (found.counts[0], found.counts[-1]) == ((2, 2) if bins == 1 else (1, 1))
        assert found.counts.sum() == 2


@given(st.integers(1, 30), st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_every_confidence_lies_in_its_bin(bins, values):
    found = bin_confidences(values, np.ones(len(values)), bins)
    assert found.counts.sum() == len(values)
    held = found.counts > 0
    assert np.all(found.confidence[held] <= found.edges[1:][held] * (1 + 1e-12))
    assert np.all(found.confidence[held] >= found.edges[:-1][held] * (1 - 1e-12))


def test_errors_by_hand():
    """Of ten bins (0.4, 0.5], (0.5, 0.6] and (0.8, 0.9] hold 1, 1 and 2 images, with gaps 0.5, -0.4 and -0.1."""
    found = measured([[0.6, 0.4], [0.5, 0.5], [0.9, 0.1], [0.1, 0.9]], [0, 1, 0, 1], bins=10)
    assert found.ece.estimate == pytest.approx((0.5 + 0.4 + 2 * 0.1) / 4)
    assert found.mce == pytest.approx(0.5)
    assert found.brier == pytest.approx((2 * 0.16 + 2 * 0.25 + 2 * 0.01 + 2 * 0.01) / 4)
    assert found.nll == pytest.approx(-(math.log(0.6) + math.log(0.5) + 2 * math.log(0.9)) / 4)


def test_confidence_1_counts_as_certain():
    found = measured([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    assert (found.ece.estimate, found.mce, found.brier, found.nll) == (0.5, 0.5, 1.0, math.inf)
    assert found.reliability.counts.tolist() == [0] * 14 + [2]
    assert measured([[1.0, 0.0]], [0]).nll == 0


@pytest.mark.parametrize("bins", [10, 15])
@pytest.mark.parametrize(("norm", "error"), [("l1", lambda c: c.ece.estimate), ("max", lambda c: c.mce)])
def test_errors_are_torchmetrics(bins, norm, error):
    """Away from edges: torchmetrics puts those into the upper bin, and confidence 1 into a bin of its own."""
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    probs, labels = predictions(3000)
    probs = (probs**1.5) / (probs**1.5).sum(axis=1, keepdims=True)  # over-confident
    metric = torchmetrics.MulticlassCalibrationError(num_classes=10, n_bins=bins, norm=norm)
    expected = metric(torch.from_numpy(probs), torch.from_numpy(labels)).item()
    assert error(measured(probs, labels, bins)) == pytest.approx(expected, rel=1e-5)  # it adds up in float32


def test_likelihood_is_torchs():
    probs, labels = predictions(500)
    expected = torch.nn.functional.nll_loss(torch.from_numpy(probs).log(), torch.from_numpy(labels)).item()
    assert measured(probs, labels).nll == pytest.approx(expected, rel=1e-12)


def test_adaptive_bins_by_hand():
    """Four confidences in two bins of two: |0.6 - 0.5| and |0.9 - 1|, where bins of equal width would hold all."""
    probs = [[0.55, 0.45], [0.65, 0.35], [0.85, 0.15], [0.95, 0.05]]
    assert measured(probs, [0, 1, 0, 0], bins=2).adaptive_ece == pytest.approx(0.1)
    assert measured(probs, [0, 1, 0, 0], bins=100).adaptive_ece == pytest.approx((0.45 + 0.65 + 0.15 + 0.05) / 4)


def test_no_order_decides_between_equal_confidences():
    probs, labels = np.tile([0.7, 0.3], (9, 1)), np.array([0, 1, 1, 0, 0, 1, 1, 1, 0])
    orders = [np.random.default_rng(k).permutation(9) for k in range(5)]
    found = {round(measured(probs[o], labels[o], bins=4).adaptive_ece, 12) for o in orders}
    assert found == {round(0.7 - 4 / 9, 12)}


def test_single_passes_are_pooled_and_their_images_resampled_as_wholes():
    probs, labels = predictions(200)
    once, often = (measured(p, labels, bins=10) for p in (probs, np.stack([probs] * 5)))
    assert often.reliability.counts.tolist() == (5 * once.reliability.counts).tolist()
    for name in ("adaptive_ece", "mce", "brier", "nll"):
        assert getattr(often, name) == pytest.approx(getattr(once, name))
    assert (often.ece.low, often.ece.high, often.ece.n) == pytest.approx((once.ece.low, once.ece.high, 200))


def test_the_bootstrap_depends_on_its_seed_alone():
    probs, labels = predictions(100)
    assert measured(probs, labels, seed=3).ece == measured(probs, labels, seed=3).ece
    assert measured(probs, labels, seed=3).ece != measured(probs, labels, seed=4).ece


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_the_interval_of_the_ece_covers_the_truth(shift):
    """300 samples of 500 images: at least 95 % less 4 standard errors, for calibrated and over-confident ones."""
    rng = np.random.default_rng(9)
    hit = 0
    for sample in range(300):
        confidence = rng.uniform(0.55, 1, size=500)  # ECE: the shift itself
        labels = (rng.random(500) >= confidence - shift).astype(int)
        probs = np.stack([confidence, 1 - confidence], axis=1)
        ece = saplab.calibration(probs, labels, bins=15, seed=sample, replicates=100).ece
        hit += ece.low <= shift <= ece.high
    assert hit / 300 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 300)


@pytest.mark.parametrize(
    ("probs", "labels", "settings", "message"),
    [
        ([0.5, 0.5], [0], {}, r"\(N, C\) or \(K, N, C\)"),
        (np.zeros((0, 2)), [], {}, "at least one image"),
        ([[0.5, 0.5]], [0, 1], {}, r"`labels` must have the shape \(1,\), got \(2,\)"),
        ([[0.5, 0.5]], [2], {}, r"`labels` must be in 0\.\.1, got 2 to 2"),
        ([[0.5, 0.5]], [0.0], {}, "got float64"),
        ([[0.5, 0.4]], [0], {}, "add up to 1"),
        ([[1.5, -0.5]], [0], {}, "probabilities"),
        ([[math.nan, 1.0]], [0], {}, "probabilities"),
        ([[0.5, 0.5]], [0], {"bins": 0}, "`bins` must be >= 1, got 0"),
        ([[0.5, 0.5]], [0], {"seed": -1}, "`seed` must be an integer >= 0, got -1"),
        ([[0.5, 0.5]], [0], {"replicates": 1}, "`replicates` must be >= 2, got 1"),
    ],
)
def test_calibration_refuses(probs, labels, settings, message):
    with pytest.raises(ValueError, match=message):
        saplab.calibration(probs, labels, **settings)

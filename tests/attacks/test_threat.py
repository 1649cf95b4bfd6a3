"""Threat models: radii, ball and valid values, other bounds than [0, 1]; and what every attack refuses."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saplab import APGD, FGSM, PGD, Iterative, MonteCarlo, RandomNoise, Square
from saplab.attacks import LINF, ThreatModel, eps_of, strength_of

WIDE = ThreatModel(bounds=(-2.0, 3.0))


def test_strengths_are_pixel_steps() -> None:
    assert eps_of(8) == 8 / 255
    assert (eps_of(0), eps_of(255)) == (0.0, 1.0)
    assert all(strength_of(eps_of(lam)) == lam for lam in (0, 0.1, 7.3, 64, 255))
    for lam in (-1, 256, float("nan")):
        with pytest.raises(ValueError, match="λ must be within"):
            eps_of(lam)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**31), st.sampled_from([LINF, WIDE]))
def test_projection_is_the_nearest_point_of_ball_and_bounds(eps: float, seed: int, threat: ThreatModel) -> None:
    low, high = threat.bounds
    generator = torch.Generator().manual_seed(seed)
    images, wild = (low + (high - low) * torch.rand(20, generator=generator) for _ in "ab")
    wild = 2 * wild - 1
    inside = threat.project(wild, images, eps)
    assert ((inside - images).abs() <= eps + 1e-6).all()
    assert inside.min() >= low
    assert inside.max() <= high
    assert torch.equal(threat.project(inside, images, eps), inside)
    by_hand = [min(max(w, x - eps, low), x + eps, high) for w, x in zip(wild, images, strict=True)]
    torch.testing.assert_close(inside, torch.tensor(by_hand))


@pytest.mark.parametrize(
    "attack",
    [RandomNoise(), FGSM(), Iterative(30.0), PGD(MonteCarlo(2), steps=3), APGD(steps=5), Square(queries=20, passes=2)],
)
def test_attacks_use_all_of_other_bounds(attack: Any, sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    images = 5 * images - 2  # pushes of 4 meet the bounds
    found = attack(sap, images, labels, eps=4.0, seed=0, threat=WIDE)
    assert (found.min(), found.max()) == (-2.0, 3.0)
    assert ((found - images).abs() <= 4.0 + 1e-5).all()


def test_bounds_decide_what_images_and_radii_are_refused(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`images` must lie in \[0, 1\], got values from -0.99"):
        FGSM()(sap, images - 1, labels, eps=0.1)
    assert FGSM()(sap, images - 1, labels, eps=0.1, threat=WIDE).min() < 0
    with pytest.raises(ValueError, match=r"`images` must lie in \[-2, 3\]"):
        FGSM()(sap, images + 3, labels, eps=0.1, threat=WIDE)
    with pytest.raises(ValueError, match=r"`eps` must be within \[0, 5\], got 5.1"):
        FGSM()(sap, images, labels, eps=5.1, threat=WIDE)


@pytest.mark.parametrize("wrong", [{"norm": "l7"}, {"bounds": (1.0, 0.0)}, {"bounds": (1.0, 1.0)}])
def test_bad_threat_models_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"`norm` must be one of linf|`bounds` must ascend"):
        ThreatModel(**wrong)


def test_bad_input_is_refused(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    cases: list[tuple[Tensor, Tensor, float, str]] = [
        (images * 255, labels, 0.1, r"`images` must lie in \[0, 1\]"),
        (images * torch.nan, labels, 0.1, r"`images` must lie in \[0, 1\], got values from nan"),
        (images[:0], labels[:0], 0.1, "at least one image"),
        (images, labels[:3], 0.1, "`labels` must be 9 integers"),
        (images, labels.float(), 0.1, "`labels` must be 9 integers"),
        (images, torch.arange(1, 10) % 6, 0.1, r"`labels` must lie in 0\.\.4 for this network, got 0\.\.5"),
        (images, labels, -0.1, r"`eps` must be within \[0, 1\], got -0\.1"),
        (images, labels, 8.0, r"`eps` must be within \[0, 1\], got 8"),
    ]
    for x, y, eps, message in cases:
        with pytest.raises(ValueError, match=message):
            FGSM()(sap, x, y, eps=eps)
    with pytest.raises(ValueError, match="`seed` must be an integer >= 0"):
        FGSM()(sap, images, labels, eps=0.1, seed=-1)
    with pytest.raises(ValueError, match="`examples` must be 9 integers"):
        FGSM()(sap, images, labels, eps=0.1, examples=torch.arange(3))

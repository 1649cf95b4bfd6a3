"""Threat models: radii, ball and valid values, other bounds than [0, 1]; and what every attack refuses."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saplab import APGD, FGSM, PGD, Iterative, MonteCarlo, RandomNoise, Square
from saplab.attacks import LINF, Attack, ThreatModel, eps_of, strength_of

BOUNDS = (-2.0, 3.0)
WIDE = ThreatModel(bounds=BOUNDS)


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
    low, high = threat.bounds or (0.0, 1.0)
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
    found = attack(sap, images, labels, eps=4.0, seed=0, bounds=BOUNDS)
    assert (found.min(), found.max()) == (-2.0, 3.0)
    assert ((found - images).abs() <= 4.0 + 1e-5).all()


def test_bounds_decide_what_images_and_radii_are_refused(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`images` must lie in \[0, 1\], got values from -0.99"):
        FGSM()(sap, images - 1, labels, eps=0.1)
    assert FGSM()(sap, images - 1, labels, eps=0.1, bounds=BOUNDS).min() < 0
    with pytest.raises(ValueError, match=r"`images` must lie in \[-2, 3\]"):
        FGSM()(sap, images + 3, labels, eps=0.1, bounds=BOUNDS)
    with pytest.raises(ValueError, match=r"`eps` must be within \[0, 5\], got 5.1"):
        FGSM()(sap, images, labels, eps=5.1, bounds=BOUNDS)


@pytest.mark.parametrize(
    "wrong", [{"norm": "l7"}, {"bounds": (1.0, 0.0)}, {"bounds": (1.0, 1.0)}, {"bounds": (0.0, float("inf"))}]
)
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


def test_radii_are_read_in_pixel_steps_or_in_the_norms_own_unit() -> None:
    assert (LINF.text(8 / 255), LINF.symbol, LINF.shown(8 / 255), LINF.setting) == ("λ = 8", "λ", 8.0, "")
    l2 = ThreatModel("l2")
    assert (l2.text(0.5), l2.symbol, l2.shown(0.5), l2.setting) == ("ε = 0.5", "ε", 0.5, " in L2")
    assert WIDE.text(0.1) == "ε = 0.1"
    assert WIDE.setting == " in L∞ (values in [-2, 3])"
    assert ThreatModel("l2", None).setting == " in L2 (no bounds)"
    assert ThreatModel(bounds=(0, 1)) == LINF  # whole numbers are the same bounds


def test_usual_and_unbounded_radii() -> None:
    assert LINF.usual_radii() == (2 / 255, 8 / 255)
    assert ThreatModel("l2").usual_radii() == (0.125, 0.5)
    assert ThreatModel("l2", (-1.0, 1.0)).usual == 1.0
    assert LINF.unbounded(3072) == 0.5
    assert ThreatModel("l2").unbounded(3072) == pytest.approx(0.5 * 3072**0.5)
    with pytest.raises(ValueError, match="`eps` must be given where `bounds` is None"):
        ThreatModel(bounds=None).usual_radii()


EVERY = [
    RandomNoise(), FGSM(), Iterative(30.0), PGD(steps=4, restarts=2), PGD(steps=3, momentum=1.0), APGD(steps=5),
    Square(queries=20, passes=2),
]  # fmt: skip


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.spec)
@pytest.mark.parametrize("threat", [ThreatModel("l2"), ThreatModel("l2", None), ThreatModel(bounds=None)], ids=str)
def test_every_attack_stays_in_every_ball_and_uses_it(
    attack: Attack, threat: ThreatModel, sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    images = images if threat.bounds else 10 * images - 5
    found = attack(sap, images, labels, eps=0.4, seed=1, norm=threat.norm, bounds=threat.bounds)
    size = threat.geometry.size(found - images)
    assert size.max() <= 0.4 + 1e-5
    assert size.max() > 0.25
    if threat.bounds:
        assert found.min() >= 0
        assert found.max() <= 1
    else:
        assert found.min() < 0
    again = attack(sap, images[4:5], labels[4:5], 0.4, 1, examples=torch.tensor([4]), norm=threat.norm,
                   bounds=threat.bounds)  # fmt: skip
    torch.testing.assert_close(again[0], found[4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(12,), (4, 3), (2, 2, 3, 1)])
def test_examples_need_not_be_images(shape: tuple[int, ...], net: nn.Module) -> None:
    table = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    labels = net(table).argmax(1)
    for attack in EVERY:
        for norm in ("linf", "l2"):
            points = attack(net, table, labels, eps=0.5, norm=norm, bounds=None)  # type: ignore[arg-type]
            assert points.shape == table.shape


def test_without_bounds_only_finite_numbers_are_valid(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match="`images` must be finite, got values from nan"):
        FGSM()(net, images * torch.nan, labels, eps=0.1, bounds=None)
    with pytest.raises(ValueError, match=r"`eps` must be within \[0, inf\], got inf"):
        FGSM()(net, images, labels, eps=float("inf"), bounds=None)
    with pytest.raises(ValueError, match=r"`eps` must be within \[0, 3.46"):  # the cube's diagonal, √12
        FGSM()(net, images, labels, eps=3.5, norm="l2")


def test_an_attack_that_leaves_the_l2_ball_is_an_error(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    class Cheat(RandomNoise):
        def ascending(self, problem: Any, radii: Any) -> Any:
            return (problem.images * 0.999 + eps for eps in radii)  # far enough in L2, near enough in L∞

    with pytest.raises(ValueError, match=r"left the ball of radius 0\.05"):
        Cheat()(net, images, labels, eps=0.05, norm="l2", bounds=None)
    Cheat()(net, images, labels, eps=0.05, bounds=None)

"""The built-in defences of the image: their laws, their gradients, and the same bits in every batch."""

import io
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from torch import Tensor, nn

import saplab
from saplab.defenses import Defense, Draw, label_of, parse_defenses
from saplab.defenses.drawing import drawing
from saplab.defenses.geometry import _bilinear, _nearest
from saplab.defenses.jpeg import _BRIGHTNESS, _COLOUR, smooth_round, steps_of
from saplab.defenses.site_mode import _INPUT_SITE
from saplab.defenses.slopes import slopes
from saplab.rng.streams import pass_streams, stream_key

EVERY = ["gaussian-noise", "resize-pad", "resize-pad:low=0.85,canvas=1", "random-crop", "random-crop:0.8", "bit-depth",
         "stochastic-rounding", "jpeg", "jpeg:low=75,high=75"]  # fmt: skip
MOVING = ["resize-pad", "random-crop:0.8"]
STEPPED = ["bit-depth", "stochastic-rounding"]
ERRORS = 5.0  # standard errors that a mean may be off


def one(text: str) -> Defense:
    (defense,) = parse_defenses(text)
    return defense


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def changed(text: str, x: Tensor, pass_: int = 0, examples: Tensor | None = None, rule: Any = "mask") -> Tensor:
    """Return what the network behind a defence gets."""
    numbers = torch.arange(len(x)) if examples is None else examples
    with drawing(pass_streams(stream_key(0), pass_, numbers), rule):
        return saplab.defend(nn.Identity(), *parse_defenses(text))(x)


def weighted_gradient(text: str, x: Tensor, rule: Any) -> tuple[Tensor, Tensor]:
    """Return what the network gets, and the gradient of its inner product with fixed weights."""
    x = x.clone().requires_grad_()
    out = changed(text, x, rule=rule)
    return out.detach(), torch.autograd.grad((out * images(*out.shape, seed=1)).sum(), x)[0]


# --- what all of them have in common ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", EVERY)
def test_numbers_are_the_examples_own_in_every_batch_and_order(text: str) -> None:
    x = images(9, 3, 32, 32)
    whole = changed(text, x)
    order = torch.tensor([7, 0, 3])
    assert torch.equal(changed(text, x[order], examples=order), whole[order])
    assert torch.equal(torch.cat([changed(text, x[i : i + 1], examples=torch.tensor([i])) for i in range(9)]), whole)
    assert torch.equal(changed(text, x, pass_=1), whole) is (not one(text).random)


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 28, 28), (2, 4, 17, 40), (1, 3, 63, 9)])
def test_any_size_and_number_of_channels(text: str, shape: tuple[int, ...]) -> None:
    out = changed(text, images(*shape))
    assert out.isfinite().all()
    canvas = one(text).canvas if text.startswith("resize-pad") else 1  # type: ignore[attr-defined]
    assert out.shape == (*shape[:2], round(canvas * shape[2]), round(canvas * shape[3]))
    if text != "gaussian-noise":
        assert out.min() >= 0
        assert out.max() <= 1 + 1e-6


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_the_image_stays(text: str, dtype: torch.dtype) -> None:
    x = images(4, 3, 16, 16).to(dtype)
    out = changed(text, x)
    assert out.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(changed(text, x), out)


@pytest.mark.parametrize("text", EVERY)
def test_rules_make_no_difference(text: str) -> None:
    x = images(4, 3, 16, 16)
    found = [weighted_gradient(text, x, rule)[1] for rule in ("mask", "probability", "identity")]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].abs().sum() > 0
    assert not one(text).has_rules


@pytest.mark.parametrize("text", STEPPED)
def test_rounding_is_straight_through_on_the_way_back(text: str) -> None:
    out, gradient = weighted_gradient(text, images(4, 3, 16, 16), "mask")
    assert torch.equal(gradient, images(*out.shape, seed=1))


@pytest.mark.parametrize("text", ["gaussian-noise", *MOVING, "random-crop", "resize-pad:low=0.85,canvas=1"])
def test_the_gradient_of_the_others_is_exact(text: str) -> None:
    """They are affine in the image: a step along the gradient changes the inner product by its square."""
    x = images(4, 3, 16, 16).double()
    out, gradient = weighted_gradient(text, x, "mask")
    weights = images(*out.shape, seed=1)
    rise = ((changed(text, x + gradient) - out) * weights).flatten(1).sum(1)
    torch.testing.assert_close(rise, gradient.square().flatten(1).sum(1))


def test_texts_labels_and_facts() -> None:
    for text, spec, label, random in [
        ("gaussian-noise", "gaussian-noise:0.02", "Gaussian noise 0.02", True),
        ("gaussian-noise:0.12", "gaussian-noise:0.12", "Gaussian noise 0.12", True),
        ("resize-pad", "resize-pad", "resize and pad", True),
        ("resize-pad:low=0.85,canvas=1", "resize-pad:low=0.85,canvas=1", "resize and pad low=0.85 canvas=1", True),
        ("random-crop:0.8", "random-crop:0.8", "random crop 0.8", True),
        ("random-crop:shared=true", "random-crop:shared=true", "random crop shared=true", True),
        ("bit-depth", "bit-depth:3", "bit depth 3", False),
        ("stochastic-rounding:4", "stochastic-rounding:4", "stochastic rounding 4", True),
        ("jpeg", "jpeg", "JPEG", True),
        ("jpeg:low=75,high=75", "jpeg:low=75,high=75", "JPEG low=75 high=75", False),
    ]:
        found = parse_defenses(text)
        assert (found[0].spec, label_of(found), found[0].random) == (spec, label, random)
        assert parse_defenses(spec) == found
        assert not found[0].shares_draws or "shared" in text
    assert label_of(parse_defenses("sap:100+jpeg")) == "SAP-100+JPEG"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gaussian-noise:0", "`std` must be > 0 and finite, got 0"),
        ("gaussian-noise:nan", "`std` must be > 0 and finite, got nan"),
        ("bit-depth:0", r"`bits` must be a whole number within \[1, 16\], got 0"),
        ("stochastic-rounding:1", r"`levels` must be a whole number within \[2, 65536\], got 1"),
        ("jpeg:low=0", "`low` and `high` must be 1 <= low <= high <= 100, got 0 and 80"),
        ("jpeg:90", "got 90 and 80"),
        ("resize-pad:low=2", "`low` and `canvas` must be 0 < low < canvas <= 16, got 2.0"),
        ("random-crop:1", r"`share` must be in \(0, 1\), got 1"),
    ],
)
def test_settings_without_a_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_defenses(text)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("resize-pad", (2, 3, 4, 4), "resize-pad finds no size from 4 to 3 pixels for images of 4"),
        ("random-crop:0.9", (2, 3, 4, 4), "random-crop leaves nothing to choose: crops of 0.9 are whole images here"),
        ("resize-pad", (2, 12), r"resize-pad needs images \(N, C, H, W\), got shape \(2, 12\)"),
        ("jpeg", (2, 12), r"jpeg needs images \(N, C, H, W\), got shape \(2, 12\)"),
    ],
)
def test_images_that_cannot_be_served_are_refused(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(text, images(*shape))


# --- laws ------------------------------------------------------------------------------------------------------------


def test_gaussian_noise_has_its_mean_its_variance_and_no_clipping() -> None:
    x = torch.zeros(200, 3, 16, 16)
    noise = changed("gaussian-noise:0.25", x).flatten().double() / 0.25
    n = noise.numel()
    assert abs(noise.mean()) < ERRORS / math.sqrt(n)
    assert abs(noise.square().mean() - 1) < ERRORS * math.sqrt(2 / n)
    assert stats.kstest(noise[:20_000].numpy(), "norm").pvalue > 1e-4
    assert noise.min() < 0


def test_bit_depth_is_rounding_to_the_nearest_value() -> None:
    x = torch.tensor([[0.0, 0.49, 0.51, 1.0, 0.2]])
    assert changed("bit-depth:1", x).tolist() == [[0.0, 0.0, 1.0, 1.0, 0.0]]
    every = torch.arange(256) / 255
    assert torch.equal(changed("bit-depth:8", every[None])[0], every)
    expected = torch.tensor([float(Fraction(round(Fraction(k, 255) * 7), 7)) for k in range(256)])
    torch.testing.assert_close(changed("bit-depth:3", every[None])[0], expected)


def test_stochastic_rounding_goes_up_as_often_as_it_should() -> None:
    """Every image holds one value; each share lies within 5 standard errors, and only two values occur."""
    values = torch.tensor([0.0, 1 / 3, 0.4, 0.5, 0.99, 1.0])
    out = changed("stochastic-rounding:4", values[:, None].expand(6, 20_000).clone())
    for value, row in zip(values.tolist(), out, strict=True):
        below = math.floor(value * 3 + 1e-6) / 3
        share = (value - below) * 3
        assert set(np.round(row.unique().numpy() * 3, 5)) <= {round(below * 3, 5), round(below * 3 + 1, 5)}
        up = float((row > below + 0.1).float().mean())
        assert abs(up - share) <= ERRORS * math.sqrt(max(share * (1 - share), 1e-9) / 20_000) + 1e-6


@pytest.mark.parametrize(("text", "sizes"), [("resize-pad", {33: 9, 34: 4}), ("resize-pad:low=0.9,canvas=1", None)])
def test_sizes_and_then_places_are_uniform(text: str, sizes: dict[int, int] | None) -> None:
    """Xie et al. 2018: the size first, then each offset among all that fit; chi-square above 1e-4."""
    canvas, low = (35, 33) if sizes else (32, 29)
    filled = changed(text, torch.zeros(6000, 1, 32, 32))[:, 0] == 0
    rows, columns = filled.any(2), filled.any(1)
    size, top, left = rows.sum(1), rows.float().argmax(1), columns.float().argmax(1)
    assert torch.equal(filled, rows[:, :, None] & columns[:, None, :])
    found = Counter(zip(size.tolist(), top.tolist(), left.tolist(), strict=True))
    law = {(s, a, b): 1 / (canvas - low) / (canvas - s + 1) ** 2
           for s in range(low, canvas) for a in range(canvas - s + 1) for b in range(canvas - s + 1)}  # fmt: skip
    assert found.keys() == law.keys()
    if sizes:
        assert {s: sum(one == s for one, *_ in law) for s in sizes} == sizes
    assert stats.chisquare([found[key] for key in law], [6000 * p for p in law.values()]).pvalue > 1e-4


def test_resizing_is_that_of_pytorch() -> None:
    x = images(1, 3, 20, 20)
    for size, offset in ((20, 0), (23, 2), (13, 12), (25, 0)):
        weights = _nearest(20, 25, torch.tensor([size]), torch.tensor([offset]))[0]
        inside = F.interpolate(x, size=(size, size), mode="nearest")
        expected = F.pad(inside, (offset, 25 - size - offset, offset, 25 - size - offset))
        assert torch.equal(weights @ x @ weights.T, expected)


def test_padding_has_its_value_and_a_picture_is_not_stretched_unevenly() -> None:
    out = changed("resize-pad:low=0.5,canvas=1,fill=0.25", torch.ones(64, 1, 20, 40))[:, 0]
    assert set(out.unique().tolist()) == {0.25, 1.0}
    inside = out == 1
    assert torch.equal(inside.any(1).sum(1), 2 * inside.any(2).sum(1))


def test_cropping_is_that_of_pytorch() -> None:
    x = images(1, 3, 20, 20)
    for crop, offset in ((6, 0), (6, 14), (13, 3), (19, 1), (1, 7)):
        weights = _bilinear(20, crop, torch.tensor([offset]))[0]
        cut = x[..., offset : offset + crop, offset : offset + crop]
        expected = F.interpolate(cut, size=(20, 20), mode="bilinear", align_corners=False)
        torch.testing.assert_close(weights @ x @ weights.T, expected, atol=1e-6, rtol=1e-5)


def test_places_of_crops_are_uniform() -> None:
    """The corner of a crop is read off an image whose values are its coordinates; chi-square above 1e-4."""
    ramp = torch.arange(8.0)
    both = torch.stack((ramp[:, None].expand(8, 8), ramp.expand(8, 8)))
    corners = changed("random-crop:0.5", both.expand(4000, 2, 8, 8))[:, :, 0, 0]
    found = Counter(map(tuple, corners.int().tolist()))
    assert len(found) == 25
    assert stats.chisquare(list(found.values())).pvalue > 1e-4


@pytest.mark.parametrize("text", ["resize-pad", "random-crop:0.5"])
def test_a_shared_draw_serves_a_whole_pass(text: str) -> None:
    shared = text + ("," if "=" in text else ":share=0.5," if "crop" in text else ":") + "shared=true"
    shared = shared.replace("random-crop:0.5:", "random-crop:")
    x = images(1, 3, 16, 16).expand(6, 3, 16, 16)
    assert one(shared).shares_draws
    passes = [changed(shared, x, pass_) for pass_ in range(6)]
    assert all(torch.equal(out[0], out[k]) for out in passes for k in range(6))
    assert len({tuple(out[0].flatten().tolist()) for out in passes}) > 1
    own = changed(text, x)
    assert len({tuple(out.flatten().tolist()) for out in own}) > 1


# --- JPEG ------------------------------------------------------------------------------------------------------------


def by_pillow(x: Tensor, quality: int) -> tuple[Tensor, dict[int, list[int]]]:
    """Return an image (C, H, W) in multiples of 1/255 as a JPEG file without subsampling keeps it, and its tables."""
    file = io.BytesIO()
    pixels = (255 * x).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    read: Any = Image.open(io.BytesIO(file.getvalue()))
    return torch.from_numpy(np.array(read)).view(*x.shape[1:], -1).permute(2, 0, 1).float() / 255, read.quantization


@pytest.mark.parametrize("rule", ["mask", "identity", "relaxed"])
def test_the_way_back_of_jpeg_rounds_smoothly_at_the_same_quality(rule: Any) -> None:
    """Flat where a coefficient is a whole number of steps, three times as steep as straight through at a threshold."""
    x, (out, gradient) = images(4, 3, 16, 16), weighted_gradient("jpeg", images(4, 3, 16, 16), rule)
    weights = images(*out.shape, seed=1)

    def smooth(x: Tensor) -> Tensor:
        with drawing(pass_streams(stream_key(0), 0, torch.arange(len(x)))) as drawn:
            draw = Draw(drawn, _INPUT_SITE, "input", len(x), x.device)
            return one("jpeg").surrogate("input", x, draw) * weights  # type: ignore[operator]

    expected = torch.autograd.functional.vjp(smooth, x, torch.ones_like(weights))[1]
    torch.testing.assert_close(gradient, expected)
    rounded = smooth_round(torch.tensor([1.0, 1.25, 1.5, -0.75]))
    torch.testing.assert_close(rounded, torch.tensor([1.0, 1.0625, 1.5, -0.9375]))
    steps = torch.tensor([0.0, 0.25, 0.5]).requires_grad_()
    smooth_round(steps).sum().backward()
    assert steps.grad is not None
    torch.testing.assert_close(steps.grad, torch.tensor([0.0, 0.75, 3.0]))


def test_the_way_back_of_jpeg_is_a_slope_where_straight_through_is_not() -> None:
    net, (pixels, _) = saplab.load_model("preact-resnet20-dense"), saplab.load_cifar10("sample")
    (found,) = slopes(saplab.defend(net, saplab.JPEG()), pixels, ("mask",)).values()
    assert found.share > 0.8  # 0.26 straight through


@pytest.mark.parametrize("quality", [1, 10, 25, 49, 50, 51, 75, 90, 100])
def test_steps_are_those_of_libjpeg(quality: int) -> None:
    _, tables = by_pillow(torch.zeros(3, 8, 8), quality)
    steps = steps_of(torch.tensor([_BRIGHTNESS, _COLOUR]), torch.tensor([quality]))[0]
    assert steps.flatten(1).tolist() == [list(tables[0]), list(tables[1])]


@pytest.mark.parametrize("quality", [20, 50, 80])
@pytest.mark.parametrize(("grey", "off"), [(True, 0.6), (False, 1.5)])
def test_pictures_are_near_those_of_a_file(quality: int, grey: bool, off: float) -> None:
    """A file rounds to bytes: brightness once, where 0.25 of a step is the mean, and colours on either side as well."""
    x = saplab.load_cifar10("sample")[0][:40]
    x = (255 * x.mean(1, keepdim=True)).round() / 255 if grey else x
    ours = changed(f"jpeg:low={quality},high={quality}", x)
    theirs = torch.stack([by_pillow(image, quality)[0] for image in x])
    assert 255 * (ours - theirs).abs().mean() < off
    assert 255 * (x - theirs).abs().mean() > 2.5 * off


def test_a_flat_grey_picture_stays_and_a_coefficient_is_rounded_by_hand() -> None:
    flat = torch.full((1, 1, 8, 8), 128 / 255)
    torch.testing.assert_close(changed("jpeg:low=50,high=50", flat), flat)
    # the first coefficient of a flat block is 8 (v - 128); at quality 50 its step is 16, so v moves in steps of 2
    out = changed("jpeg:low=50,high=50", torch.full((1, 1, 8, 8), 132.7 / 255))
    torch.testing.assert_close(out, torch.full((1, 1, 8, 8), 132 / 255))


def test_qualities_are_uniform() -> None:
    """They are read off a flat block at a value whose rounding tells them apart; chi-square above 1e-4."""
    value = torch.full((3000, 1, 8, 8), 140.3 / 255)
    out = changed("jpeg:low=30,high=33", value)[:, 0, 0, 0] * 255
    steps = {q: float(steps_of(torch.tensor([_BRIGHTNESS]), torch.tensor([q]))[0, 0, 0, 0]) for q in range(30, 34)}
    expected = {q: 128 + round(8 * 12.3 / step) * step / 8 for q, step in steps.items()}
    counts = {v: sum(other == v for other in expected.values()) for v in expected.values()}
    found = [int(((out - v).abs() < 1e-3).sum()) for v in counts]
    assert sum(found) == 3000
    assert len(counts) > 2
    assert stats.chisquare(found, [3000 * share / 4 for share in counts.values()]).pvalue > 1e-4


def test_odd_sides_are_filled_by_the_edge() -> None:
    x = images(2, 3, 11, 13)
    padded = F.pad(x, (0, 3, 0, 5), mode="replicate")
    assert torch.equal(changed("jpeg", x), changed("jpeg", padded)[..., :11, :13])

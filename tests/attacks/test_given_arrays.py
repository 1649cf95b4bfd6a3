"""Images and labels as callers have them: of any type that can be meant, and refused where none can."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import saplab
from saplab.data.given import given_images, given_labels

IMAGES = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4)


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).eval()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32])
def test_labels_of_any_integer_type_are_the_same_labels(net: nn.Module, kind: torch.dtype) -> None:
    wanted = saplab.FGSM()(net, IMAGES, LABELS, 0.1)
    assert torch.equal(saplab.FGSM()(net, IMAGES, LABELS.to(kind), 0.1), wanted)
    assert torch.equal(saplab.APGD(steps=2, targets=2)(net, IMAGES, LABELS.to(kind), 0.1),
                       saplab.APGD(steps=2, targets=2)(net, IMAGES, LABELS, 0.1))  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: saplab.PGD(steps=1.5), "`steps` must be an integer, got 1.5"),
        (lambda: saplab.APGD(steps=True), "`steps` must be an integer, got True"),
        (lambda: saplab.PGD(steps=10**30), "`steps` must be at most 2147483647, got 1000"),
        (lambda: saplab.PGD(restarts="2"), "`restarts` must be an integer, got '2'"),
        (lambda: saplab.PGD(targets=0.5), "`targets` must be an integer, got 0.5"),
        (lambda: saplab.MonteCarlo(2.0), "`samples` must be an integer, got 2.0"),
        (lambda: saplab.Square(queries=2**31), "`queries` must be at most 2147483647"),
        (lambda: saplab.Square(passes=float("nan")), "`passes` must be an integer, got nan"),
        (lambda: saplab.ARC(rivals=1.5), "`rivals` must be an integer"),
    ],
)
def test_counts_are_whole_numbers_that_can_be_counted(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError if "integer" in message else ValueError, match=re.escape(message)):
        make()


def test_numpys_numbers_count(net: nn.Module) -> None:
    attack = saplab.PGD(saplab.MonteCarlo(np.int64(2)), steps=np.int32(2))
    plain = saplab.PGD(saplab.MonteCarlo(2), steps=2)
    assert torch.equal(attack(net, IMAGES, LABELS, 0.1), plain(net, IMAGES, LABELS, 0.1))


@pytest.mark.parametrize("kind", [">i4", "<u2", "i8"])
def test_arrays_are_taken_everywhere(net: nn.Module, kind: str) -> None:
    images, labels = IMAGES.numpy()[::-1], LABELS.numpy()[::-1].astype(kind)
    images.flags.writeable = False
    expected = saplab.FGSM()(net, IMAGES.flip(0), LABELS.flip(0), 0.1)
    assert torch.equal(saplab.FGSM()(net, images, labels, 0.1), expected)
    assert torch.equal(saplab.predict(net, images), saplab.predict(net, IMAGES.flip(0)))
    result = saplab.evaluate(net, images, labels, attacks="fgsm", eps=0.1, samples=1, progress=False)
    direct = saplab.evaluate(net, IMAGES.flip(0), LABELS.flip(0), attacks="fgsm", eps=0.1, samples=1, progress=False)
    assert result.rows == direct.rows


def test_precision_is_the_networks(net: nn.Module) -> None:
    adversarial = saplab.FGSM()(net, IMAGES.double(), LABELS, 0.1)
    assert adversarial.dtype == torch.float32
    assert torch.equal(adversarial, saplab.FGSM()(net, IMAGES, LABELS, 0.1))
    assert saplab.FGSM()(net.double(), IMAGES, LABELS, 0.1).dtype == torch.float64
    assert torch.allclose(saplab.predict(net, IMAGES), saplab.predict(net.float(), IMAGES), atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(net: nn.Module, kind: torch.dtype) -> None:
    message = rf"must be of float32 or float64, got {kind}; call \.float\(\) first"
    with pytest.raises(ValueError, match=message):
        saplab.FGSM()(net.to(kind), IMAGES, LABELS, 0.1)
    with pytest.raises(ValueError, match=message):
        saplab.predict(net, IMAGES)


def test_images_that_require_a_gradient_give_plain_ones(net: nn.Module) -> None:
    images = IMAGES.clone().requires_grad_()
    assert not saplab.FGSM()(net, images, LABELS, 0.1).requires_grad
    assert not saplab.predict(net, images).requires_grad


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (255 * IMAGES, r"`images` must lie in \[0, 1\]"),
        (IMAGES - 0.5, r"`images` must lie in \[0, 1\]"),
        (IMAGES * torch.nan, r"`images` must lie in \[0, 1\]"),
        ((255 * IMAGES).byte(), r"`images` must be floating point in \[0, 1\], got torch\.uint8; write images / 255"),
        ([["a"]], "`images` must be a tensor or an array of numbers, got list"),
    ],
)
def test_images_out_of_range_are_refused_by_all(net: nn.Module, images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        saplab.predict(net, images)
    with pytest.raises(ValueError, match=message):
        saplab.FGSM()(net, images, LABELS, 0.1)
    with pytest.raises(ValueError, match=message):
        saplab.evaluate(net, images, LABELS, attacks="fgsm", progress=False)


def test_other_inputs_are_predicted_where_their_bounds_are_named(net: nn.Module) -> None:
    wide = 4 * IMAGES - 2
    expected = net(wide).softmax(1)
    assert torch.allclose(saplab.predict(net, wide, bounds=None), expected)
    assert torch.allclose(saplab.predict(net, wide, bounds=(-2, 2)), expected)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\] \(see `bounds`\)"):
        saplab.predict(net, wide, bounds=(-1, 1))


def test_a_network_without_finite_logits_has_no_prediction(net: nn.Module) -> None:
    with torch.no_grad():
        net[1].bias[3] = torch.inf
    with pytest.raises(ValueError, match="must return finite logits, got NaN or infinity"):
        saplab.predict(net, IMAGES)


@pytest.mark.parametrize("labels", [LABELS.float(), LABELS.bool(), LABELS[:3], LABELS[:, None], np.array(["a"] * 4)])
def test_what_cannot_be_labels(labels) -> None:
    with pytest.raises(ValueError, match="`labels` must be"):
        given_labels(labels, 4)


def test_tensors_are_not_copied() -> None:
    assert given_images(IMAGES).data_ptr() == IMAGES.data_ptr()
    assert given_labels([0, 1, 2], 3).tolist() == [0, 1, 2]

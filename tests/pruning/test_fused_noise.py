"""Noise drawn and applied in one pass: the numbers of `variates`, in any layout, with the gradients of the formulas."""

import pytest
import torch

import saplab
from saplab.pruning.fused_noise import can_noise, noised
from saplab.rng.numbers import normals, uniforms
from saplab.rng.streams import pass_streams

DEFENSES = (saplab.Dropout(0.3), saplab.RandomNoisyActivations(0.5), saplab.RandomlyScaledActivations(0.5))
LAWS = ("dropout", "add", "scale")
SHAPES = (
    (3, 5),
    (2, 16, 8, 16),
    (2, 32, 16, 16),
    (2, 16, 16, 24),
    (2, 64, 8, 8),
    (2, 24, 8, 16),
    (2, 128, 16, 16),
    (2, 80, 4, 4),
    (2, 512, 4, 4),
    (2, 16, 2, 4),
    (2, 512, 2, 2),
    (2, 8, 32, 32),
    (2, 64, 14, 14),
    (3, 6, 5, 5),
    (2, 3, 4),
    (1, 1, 1, 1),
    (2, 128),
    (2, 300, 1, 1),
)


def maps(shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def keys(count):
    return pass_streams(5, 2, torch.arange(count))


def drawn(h, law, amount, site=7):
    """What is added to, or multiplied with, the maps `h`, from `variates`."""
    size = h[:1].numel()
    if law == "dropout":
        return (uniforms(keys(len(h)), size, site) >= amount).view(h.shape).float() / (1 - amount)
    z = normals(keys(len(h)), size, site).view(h.shape) * amount
    return 1 + z if law == "scale" else z


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("innermost", [False, True])
def test_the_numbers_are_those_of_variates(law, shape, innermost):
    h = maps(shape)
    if innermost and h.dim() == 4:
        h = h.to(memory_format=torch.channels_last)
    number = drawn(h, law, 0.25)
    expected = h + number if law == "add" else h * number
    out = noised(h, keys(len(h)), 7, law, 0.25)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    assert out.stride() == h.stride()


@pytest.mark.parametrize("law", LAWS)
def test_bfloat16_is_rounded_once(law):
    h = maps((4, 8, 4, 4), torch.bfloat16).to(memory_format=torch.channels_last)
    exact = noised(h.float(), keys(4), 7, law, 0.25)
    assert torch.equal(noised(h, keys(4), 7, law, 0.25), exact.bfloat16())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("innermost", [False, True])
def test_gradients_are_those_of_the_formula(law, innermost):
    h = maps((3, 6, 5, 5))
    h[0, 0] = 0.0  # a factor counts also where the activation is 0
    h = (h.to(memory_format=torch.channels_last) if innermost else h).requires_grad_()
    grad = maps((3, 6, 5, 5)) + 2
    (gradient,) = torch.autograd.grad(noised(h, keys(3), 7, law, 0.25), h, grad)
    expected = grad if law == "add" else grad * drawn(h.detach(), law, 0.25)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)
    (unscaled,) = torch.autograd.grad(noised(h, keys(3), 7, law, 0.25, through=False), h, grad)
    assert torch.equal(unscaled, grad)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("innermost", [False, True])
def test_behind_a_relu_it_is_both_one_after_the_other(law, through, dtype, innermost):
    h = maps((3, 6, 5, 5), dtype)
    h[0, 0] = 0.0
    h = (h.to(memory_format=torch.channels_last) if innermost else h).requires_grad_()
    grad = maps((3, 6, 5, 5), dtype) + 2
    one = noised(torch.relu(h), keys(3), 7, law, 0.25, through)
    both = noised(h, keys(3), 7, law, 0.25, through, rectify=True)
    assert torch.equal(both, one)
    assert both.stride() == one.stride()
    gradients = [torch.autograd.grad(out, h, grad)[0] for out in (both, one)]
    if law == "scale" and through and dtype == torch.float32:  # the factor is a quotient
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)
        assert torch.equal(*(gradient == 0 for gradient in gradients))
    else:
        assert torch.equal(*gradients)


@pytest.mark.parametrize("defense", DEFENSES)
def test_a_defence_takes_a_relu_along_and_changes_no_number(defense, monkeypatch):
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4)
    net = torch.nn.Sequential(*layers).eval()
    x = maps((5, 3, 8, 8))
    defended = saplab.defend(net, defense)
    together = saplab.predict(defended, x.sigmoid(), passes=3)
    calls = []
    plain = type(defense).rectified
    monkeypatch.setattr(type(defense), "rectified", lambda self, *args: calls.append(1) or plain(self, *args))
    assert torch.equal(saplab.predict(defended, x.sigmoid(), passes=3), together)
    assert calls
    monkeypatch.setattr(type(defense), "rectified", saplab.Defense.rectified)
    assert torch.equal(saplab.predict(defended, x.sigmoid(), passes=3), together)


def test_a_hook_of_ones_own_is_not_passed_by_behind_a_relu():
    class Halved(saplab.Dropout):
        def activation(self, h, draw, where):
            return h / 2

    net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten()).eval()
    x = maps((2, 3, 4, 4))
    assert torch.equal(saplab.defend(net, Halved(0.5))(x), (torch.relu(x) / 2).flatten(1))


def test_gradients_in_another_layout_meet_the_same_factors():
    h = maps((3, 6, 5, 5)).to(memory_format=torch.channels_last).requires_grad_()
    out = noised(h, keys(3), 7, "scale", 0.25)
    one, other = (
        torch.autograd.grad(out, h, g, retain_graph=True)[0]
        for g in (maps(h.shape), maps(h.shape).to(memory_format=torch.channels_last))
    )
    assert torch.equal(one, other)


def test_of_the_maps_only_what_the_way_back_needs_is_kept():
    h = maps((2, 8)).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        noised(h, keys(2), 0, "dropout", 0.5)
        noised(h, keys(2), 0, "scale", 0.5)
        noised(h, keys(2), 0, "add", 0.5, rectify=True)
        noised(h, keys(2), 0, "dropout", 0.5, rectify=True)
        noised(h, keys(2), 0, "scale", 0.5, False, rectify=True)
        noised(h, keys(2), 0, "scale", 0.5, rectify=True)
    streams, maps_of = (2, 3), (2, 8)  # of the maps: where the ReLU passed; for RSA's quotient, before and after
    assert kept == [streams] * 2 + [streams, maps_of] * 3 + [streams, maps_of, maps_of]
    assert not noised(h.detach(), keys(2), 0, "dropout", 0.5).requires_grad


@pytest.mark.parametrize("odd", [1e-39, 1e-30, 1e30, float("inf"), float("nan")])
def test_a_factor_is_drawn_again_where_the_quotient_would_be_rough(odd):
    h, grad = maps((2, 16, 8, 16)), maps((2, 16, 8, 16)) + 2
    h[1, 3, 2, 1] = odd
    h.requires_grad_()
    drawn_again = grad * drawn(h.detach(), "scale", 0.25)
    (gradient,) = torch.autograd.grad(noised(h, keys(2), 7, "scale", 0.25, rectify=True), h, grad)
    assert torch.equal(gradient, torch.where(h <= 0, 0, drawn_again))


def test_the_quotient_has_the_gradient_of_a_factor():
    h, grad = maps((2, 16, 8, 16)).requires_grad_(), (maps((2, 16, 8, 16)) + 2).requires_grad_()
    out = noised(h, keys(2), 7, "scale", 0.25, rectify=True)
    (gradient,) = torch.autograd.grad(out, h, grad, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum() / 2, grad)
    factor = drawn(h.detach(), "scale", 0.25) * (h > 0)
    torch.testing.assert_close(second, (grad * factor * factor).detach(), rtol=1e-5, atol=1e-6)


def test_the_quotient_takes_gradients_and_maps_of_any_layout():
    h = maps((3, 6, 5, 5)).to(memory_format=torch.channels_last).requires_grad_()
    out = noised(h, keys(3), 7, "scale", 0.25, rectify=True)
    one, other, same = (
        torch.autograd.grad(out, h, g, retain_graph=True)[0]
        for g in (
            maps(h.shape),
            maps(h.shape).to(memory_format=torch.channels_last),
            maps((3, 1, 1, 1)).expand(h.shape),
        )
    )
    assert torch.equal(one, other)
    assert same.stride() == h.stride()
    apart = maps((3, 6, 5, 10))[..., ::2].detach().requires_grad_()  # with gaps in memory
    (gradient,) = torch.autograd.grad(noised(apart, keys(3), 7, "scale", 0.25, rectify=True), apart, maps(h.shape))
    assert gradient.stride() == torch.empty_like(apart).stride()
    expected = maps(h.shape) * drawn(apart.detach(), "scale", 0.25) * (apart > 0)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 5), (2, 0)])
def test_empty_maps_stay_empty(shape):
    h = torch.rand(shape)
    assert noised(h, keys(len(h)), 0, "scale", 0.5).shape == shape


def test_nan_and_infinity_are_not_hidden():
    h = torch.tensor([[float("nan"), float("inf"), 1.0, 2.0]])
    for law in LAWS:
        assert torch.isnan(noised(h, keys(1), 0, law, 0.0)[0, 0])
        assert torch.isinf(noised(h, keys(1), 0, law, 0.0)[0, 1])


def test_other_types_go_the_way_of_plain_operations():
    assert can_noise(torch.rand(2, 3))
    assert can_noise(torch.rand(2, 3, dtype=torch.bfloat16))
    assert not can_noise(torch.rand(2, 3, dtype=torch.float64))
    assert not can_noise(torch.rand(2, 3, device="meta"))


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda defense: type(defense).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_defended_maps_are_the_same_in_both_layouts(defense, dtype):
    images = torch.rand(4, 6, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    stored = (images, images.contiguous(memory_format=torch.channels_last))
    one, other = (saplab.defend(torch.nn.ReLU(), defense, seed=3)(h) for h in stored)
    assert torch.equal(one, other)
    assert other.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("through", [False, True])
def test_the_operator_is_one_of_pytorch(through):
    h = maps((2, 3, 4, 4)).requires_grad_()
    torch.library.opcheck(torch.ops.saplab.noised.default, (h, keys(2), 0, 2, 0.5, through))

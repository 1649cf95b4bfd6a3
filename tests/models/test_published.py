"""The laws of the published networks, against their formulas; and whose draws a pass makes."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saplab.models.initialise import initialise
from saplab.models.layers import replace_layers
from saplab.models.published import ARCHITECTURES
from saplab.models.published.lwta import LocalWinners
from saplab.models.published.pni import NoisyConv2d, NoisyLinear, pni_resnet20
from saplab.models.published.rna import RandomNorm, rna_resnet20
from saplab.models.published.rpf import RandomProjection, rpf_resnet20
from saplab.models.published.rse import Noise, rse_resnet20
from saplab.models.published.wca import AlignedHead, wca_resnet20
from saplab.training.draws import seeded

CPU = torch.device("cpu")
OWN_DRAWS = ("lwta-resnet20", "rse-resnet20")  # the others draw once a pass


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_draws_are_fresh_in_evaluation_mode_and_come_from_the_global_generator(name: str) -> None:
    model, x = ARCHITECTURES[name](classes=7).eval(), images(2)
    with seeded(5, CPU), torch.no_grad():
        first, second = model(x), model(x)
    with seeded(5, CPU), torch.no_grad():
        again = model(x)
    assert first.shape == (2, 7)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_whose_draws_a_pass_makes(name: str) -> None:
    """Two copies of an image differ where each example draws for itself, and agree where the batch shares a draw."""
    model, x = ARCHITECTURES[name]().eval(), images(1)
    with seeded(0, CPU), torch.no_grad():
        logits = model(x.repeat(2, 1, 1, 1))
    assert torch.allclose(logits[0], logits[1], atol=1e-4) == (name not in OWN_DRAWS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_building_is_a_function_of_nothing_and_leaves_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, second = ARCHITECTURES[name]().state_dict(), ARCHITECTURES[name]().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), before)
    other = initialise(ARCHITECTURES[name](), seed=1).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_reach_every_parameter_and_the_images(name: str) -> None:
    model, x = ARCHITECTURES[name](), images(2).requires_grad_()
    with seeded(0, CPU):
        for _ in range(12 if name == "rna-resnet20" else 1):  # of as many choices, each normaliser is met
            F.cross_entropy(model(x), torch.arange(2)).backward()
    parameters = dict(model.named_parameters())
    without = [key for key, p in parameters.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert x.grad is not None
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


# Winner-take-all


def test_winners_at_test_are_drawn_by_softmax() -> None:
    u = torch.tensor([1.2, -0.3, 0.5, 0.4]).view(1, 4, 1, 1).expand(20_000, 4, 1, 1)
    with seeded(0, CPU):
        out = LocalWinners().eval()(u)[:, :, 0, 0]
    kept = (out / u[:, :, 0, 0] > 0.5).double().mean(0)
    for a, b in ((0, 2), (1, 3)):  # channels k and k + C/2 compete
        p = 1 / (1 + math.exp(float(u[0, b, 0, 0] - u[0, a, 0, 0])))
        error = math.sqrt(p * (1 - p) / len(u))
        assert float(kept[a]) == pytest.approx(p, abs=4 * error)  # four standard errors
        assert float(kept[a] + kept[b]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("training", "temperature"), [(True, 0.67), (False, 0.01)])
def test_shares_are_the_relaxed_softmax_of_gumbels(training: bool, temperature: float) -> None:
    """The distribution of a pair's share, against shares made of two Gumbel numbers in float64."""
    u, count = torch.tensor([0.8, 0.3]), 40_000
    generator = torch.Generator().manual_seed(3)
    gumbel = -(-torch.rand(count, 2, generator=generator, dtype=torch.float64).log()).log()
    expected = (((u + gumbel) / temperature).softmax(1))[:, 0].sort().values
    with seeded(0, CPU):
        out = LocalWinners().train(training)(u.view(1, 2, 1, 1).expand(count, 2, 1, 1))[:, :, 0, 0]
    share = (out[:, 0] / u[0]).double().sort().values
    assert torch.allclose(out[:, 1] / u[1], 1 - out[:, 0] / u[0], atol=1e-5)
    points = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    gap = (torch.searchsorted(share, points) - torch.searchsorted(expected, points)).abs().max() / count
    assert gap < 1.95 * math.sqrt(2 / count)  # Kolmogorov and Smirnov's bound at 0.1 %


def test_winners_keep_type_and_survive_the_smallest_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda like, dtype: torch.zeros(like.shape, dtype=dtype))
    out = LocalWinners()(torch.full((1, 2, 1, 1), 0.5, dtype=torch.bfloat16, requires_grad=True))
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


# Noise on weights


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_weights_of_a_pass_are_w_plus_strength_times_deviation_times_noise(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    if kind == "linear":
        layer, unit = NoisyLinear(nn.Linear(400, 100, bias=False)), torch.eye(400)
    else:
        layer, unit = NoisyConv2d(nn.Conv2d(400, 100, 1, bias=False)), torch.eye(400)[:, :, None, None]
    with torch.no_grad():
        layer.weight.copy_(0.3 + 2 * torch.randn(layer.weight.shape, generator=generator))
        layer.strength.fill_(0.5)
        with seeded(1, CPU):
            effective = layer(unit).reshape(400, 100).T
        noise = (effective - layer.weight.reshape(100, 400)) / (0.5 * layer.weight.std())
    assert float(noise.mean()) == pytest.approx(0, abs=4 / 200)  # four standard errors of 40,000 numbers
    assert float(noise.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * 40_000))


def test_strengths_begin_at_a_quarter_one_a_layer_and_no_gradient_passes_the_deviation() -> None:
    model = pni_resnet20()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 22
    assert all(isinstance(m, NoisyConv2d | NoisyLinear) and m.strength.item() == 0.25 for m in layers)
    layer = NoisyLinear(nn.Linear(3, 2))
    with seeded(0, CPU):
        layer(torch.ones(1, 3)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones(2, 3))


# Random filters


def test_projection_filters_are_redrawn_with_their_deviation_and_learnt_ones_stay() -> None:
    layer = RandomProjection(30, learnt=4, random=60, side=3)
    with seeded(0, CPU), torch.no_grad():
        first, second = layer.filters(), layer.filters()
    assert first.shape == (64, 30, 3, 3)
    assert torch.equal(first[:4], second[:4])
    assert torch.allclose(first[:4], layer.weight / layer.weight.std() / 3)
    assert not (first[4:] == second[4:]).any()
    count = first[4:].numel()
    assert float(first[4:].std()) == pytest.approx(1 / 3, abs=4 / 3 / math.sqrt(2 * count))  # four standard errors
    assert float(first[4:].mean()) == pytest.approx(0, abs=4 / 3 / math.sqrt(count))


def test_three_quarters_of_the_first_filters_are_random() -> None:
    model = rpf_resnet20()
    assert isinstance(model.conv, RandomProjection)
    assert (len(model.conv.weight), model.conv.random) == (4, 12)
    assert model.conv(images(2)).shape == (2, 16, 32, 32)


# Random normalisers


def test_each_pass_takes_batch_norm_or_group_norm_with_even_chances() -> None:
    norm, x = RandomNorm(3).eval(), images(2) + 1
    batch, group = norm.batch(x), F.instance_norm(x, eps=1e-5)
    with seeded(0, CPU):
        outs = [norm(x) for _ in range(400)]
    took_batch = sum(torch.equal(out, batch) for out in outs)
    took_group = sum(torch.allclose(out, group, atol=1e-5) for out in outs)
    assert took_batch + took_group == 400
    assert took_batch == pytest.approx(200, abs=4 * 10)  # four standard errors


def test_layers_choose_apart_and_the_inputs_norm_stays() -> None:
    model = rna_resnet20()
    norms = [m for m in model.modules() if isinstance(m, RandomNorm)]
    assert len(norms) == 19
    assert isinstance(model.normalize, nn.BatchNorm2d)
    chosen: dict[int, list[bool]] = {k: [] for k in range(19)}
    for k, norm in enumerate(norms):
        norm.batch.register_forward_hook(lambda *_, k=k: chosen[k].append(True))
        norm.group.register_forward_hook(lambda *_, k=k: chosen[k].append(False))
    with seeded(0, CPU), torch.no_grad():
        for _ in range(5):
            model(images(1))
    assert all(len(found) == 5 for found in chosen.values())
    assert len({tuple(found) for found in chosen.values()}) > 10


# Noise before convolutions


def test_noise_of_two_sizes_stands_before_every_convolution() -> None:
    model = rse_resnet20()
    found = {name: m.std for name, m in model.named_modules() if isinstance(m, Noise)}
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 21
    assert found.pop("normalize.0") == 0.2
    assert set(found) == {name.removesuffix(".1") + ".0" for name in convolutions if name != "conv"}
    assert set(found.values()) == {0.1}
    x = torch.zeros(8, 16, 32, 32)
    with seeded(0, CPU):
        noise = Noise(0.1)(x)
    assert float(noise.std()) == pytest.approx(0.1, abs=4 * 0.1 / math.sqrt(2 * x.numel()))  # four standard errors


# Aligned noise


def test_aligned_noise_is_one_draw_with_the_covariance_of_its_factor() -> None:
    head, features = AlignedHead(6), torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.factor.copy_(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))
        clean = torch.relu(head.fc(features))
        with seeded(0, CPU):
            noise = torch.stack([head(features) - clean for _ in range(4000)])
    assert torch.allclose(noise[:, 0], noise[:, 1], atol=1e-4)
    lower = head.factor.detach().tril()
    covariance = lower @ lower.T
    deviation = ((covariance.square() + covariance.diag().outer(covariance.diag())) / 4000).sqrt()
    assert ((noise[:, 0].T.cov() - covariance).abs() < 5 * deviation).all()  # five standard errors of 528 numbers


def test_alignment_is_the_papers_sum() -> None:
    model = wca_resnet20()
    with torch.no_grad():
        model.head.factor.copy_(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))
    w, lower = model.linear.weight.detach(), model.head.factor.detach().tril()
    expected = math.log(sum(float(row @ lower @ lower.T @ row) for row in w))
    assert model.alignment().item() == pytest.approx(expected, rel=1e-5)


def test_replaced_layers_are_those_of_the_kind_only() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    linear = model[1][0]
    assert replace_layers(model, nn.ReLU, lambda _: nn.Identity()) is model
    assert [type(m).__name__ for m in model.modules()] == ["Sequential", "Identity", "Sequential", "Linear", "Identity"]
    assert model[1][0] is linear

"""The defences besides SAP: their laws, what they touch, their gradients, their order, and clear mistakes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import saplab
from saplab.attacks import Problem
from saplab.defenses import Draw, label_of, parse_defenses
from saplab.defenses.drawing import Drawing, drawing
from saplab.defenses.weights import weight_names
from saplab.models.initialise import initialise
from saplab.models.preact_resnet import preact_resnet20
from saplab.rng import numbers as variates
from saplab.rng.streams import pass_streams, stream_key

EVERY = ["sap:100", "dropout:0.1", "rnw:0.01", "rsw:0.1", "dwp:50", "swp:100", "rna:0.1", "rsa:0.1"]


def rows(count: int, pass_: int = 0) -> Tensor:
    return pass_streams(stream_key(0), pass_, torch.arange(count))


def at(count: int, rule: Any = "mask") -> Draw:
    """Return the draws of some maps at the first site."""
    return Draw(Drawing(rows(count), rule=rule), 0, "site", count, torch.device("cpu"))


def of_pass(site: int = 0) -> Draw:
    """Return the draws of a weight."""
    return Draw(Drawing(rows(1)).of_one_pass(), site, "w", None, torch.device("cpu"))


@pytest.fixture
def net() -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    return initialise(layers, 0).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_normals_and_uniforms_have_their_laws() -> None:
    x = variates.normals(rows(64), 5_000).double().numpy()
    u = variates.uniforms(rows(64), 5_000).double().numpy()
    assert scipy.stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    assert scipy.stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    n = x.size
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5
    halves = x.reshape(64, -1)[:, :4992].reshape(64, 39, 2, 64)  # radius of one half is that of the other
    both = (halves[:, :, 0] ** 2 - 1) * (halves[:, :, 1] ** 2 - 1)
    assert abs(both.mean()) < 4 * 2 / both.size**0.5
    assert np.abs(x).max() > 4
    assert u.min() >= 0
    assert u.max() < 1


@pytest.mark.parametrize("draw", [variates.normals, variates.uniforms])
def test_numbers_belong_to_their_stream(draw: Callable[..., Tensor]) -> None:
    whole = draw(rows(8), 300, 5)
    assert torch.equal(draw(rows(8)[[6, 1]], 300, 5), whole[[6, 1]])
    assert torch.equal(draw(rows(8), 40, 5), whole[:, :40])
    assert not torch.equal(draw(rows(8), 300, 6), whole)
    assert not torch.equal(draw(rows(8, pass_=1), 300, 5), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = draw(rows(8), 20_000)
        torch.set_num_threads(2)
        assert torch.equal(draw(rows(8), 20_000), one)
    finally:
        torch.set_num_threads(threads)


# --- activations -----------------------------------------------------------------------------------------------------


def test_dropout_zeroes_at_its_rate_and_scales_the_rest() -> None:
    h = torch.ones(100, 10, 10)
    out = saplab.Dropout(0.3).activation(h, at(100), "site")
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.7]))
    dropped = int((out == 0).sum())
    assert abs(dropped - 3000) < 4 * (10_000 * 0.3 * 0.7) ** 0.5
    assert torch.equal(saplab.Dropout(0.0).activation(h, at(100), "site"), h)


def test_activation_noise_is_the_gaussian_it_says() -> None:
    h = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    added = saplab.RandomNoisyActivations(0.2).activation(h, at(100), "site") - h
    factor = saplab.RandomlyScaledActivations(0.2).activation(h, at(100), "site") / h
    assert scipy.stats.kstest(added.ravel() / 0.2, "norm").pvalue > 1e-3
    assert scipy.stats.kstest((factor.ravel() - 1) / 0.2, "norm").pvalue > 1e-3
    zeros = torch.zeros(4, 50)
    assert (saplab.RandomNoisyActivations(0.2).activation(zeros, at(4), "site") != 0).all()
    assert (saplab.RandomlyScaledActivations(0.2).activation(zeros, at(4), "site") == 0).all()


@pytest.mark.parametrize("defense", [saplab.Dropout(0.4), saplab.RandomlyScaledActivations(0.5)])
def test_gradient_is_the_factor_or_under_identity_one(defense: Any) -> None:
    h = torch.rand(5, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = defense.activation(h, at(5), "site")
    (gradient,) = torch.autograd.grad(out.sum(), h)
    torch.testing.assert_close(gradient, (out / h).detach())
    out = defense.activation(h, at(5, "identity"), "site")
    (gradient,) = torch.autograd.grad(out.sum(), h)
    assert torch.equal(gradient, torch.ones_like(h))


# --- weights ---------------------------------------------------------------------------------------------------------


def test_the_tensors_that_weight_defences_touch() -> None:
    net = preact_resnet20()
    names = weight_names(net)
    modules = dict(net.named_modules())
    owners = [modules[name.rpartition(".")[0]] for name in names]
    assert all(isinstance(owner, nn.Conv2d | nn.Linear) for owner in owners)
    assert len(names) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules())
    others = nn.Sequential(nn.Embedding(5, 4), nn.LSTM(4, 4), nn.LayerNorm((2, 4)), nn.RMSNorm((2, 4)))
    assert weight_names(others) == ("1.weight_ih_l0", "1.weight_hh_l0")


def test_weight_noise_is_the_gaussian_it_says() -> None:
    weight = torch.full((200, 100), 2.0)
    noisy = saplab.RandomNoisyWeights(0.1).weight(weight, of_pass(), "w")
    scaled = saplab.RandomlyScaledWeights(0.1).weight(weight, of_pass(), "w")
    assert scipy.stats.kstest((noisy - 2).ravel() / 0.1, "norm").pvalue > 1e-3
    assert scipy.stats.kstest((scaled / 2 - 1).ravel() / 0.1, "norm").pvalue > 1e-3


def test_deterministic_pruning_keeps_the_largest() -> None:
    weight = torch.tensor([[3.0, -1.0, 0.5], [-4.0, 2.0, 1.0]])
    kept = saplab.DeterministicWeightPruning(50).weight(weight, of_pass(), "w")
    assert kept.tolist() == [[3.0, 0.0, 0.0], [-4.0, 2.0, 0.0]]
    ties = saplab.DeterministicWeightPruning(67).weight(weight, of_pass(), "w")  # floor(4.02) = 4
    assert ties.tolist() == [[3.0, -1.0, 0.0], [-4.0, 2.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("percent", [0.001, 1, 33, 50, 99.9, 100])
def test_what_deterministic_pruning_keeps_comes_first_in_a_stable_order(dtype: torch.dtype, percent: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for weight in (
        torch.randn(13, 77, generator=generator),
        torch.randint(-3, 4, (13, 77), generator=generator).float(),
    ):
        weight = weight.to(dtype)
        order = weight.abs().flatten().sort(descending=True, stable=True).indices
        kept = torch.zeros(weight.numel(), dtype=dtype)
        kept[order[: int(percent * weight.numel() / 100)]] = 1
        pruned = saplab.DeterministicWeightPruning(percent).weight(weight, of_pass(), "w")
        assert torch.equal(pruned, weight * kept.view(weight.shape))


def test_stochastic_weight_pruning_is_saps_law() -> None:
    weight = torch.randn(40, 25, generator=torch.Generator().manual_seed(0))
    pruned = saplab.StochasticWeightPruning(100).weight(weight, of_pass(3), "w")
    p = (weight.abs() / weight.abs().sum()).double()
    inclusion = -torch.expm1(1000 * torch.log1p(-p))
    kept = pruned != 0
    torch.testing.assert_close(pruned[kept].double(), (weight / inclusion)[kept].double(), rtol=1e-5, atol=0)
    assert abs(int(kept.sum()) - float(inclusion.sum())) < 5 * float((inclusion * (1 - inclusion)).sum()) ** 0.5


@pytest.mark.parametrize("text", ["rnw:0.5", "rsw:0.5", "swp:100", "dwp:30"])
def test_stored_weights_stay_also_when_a_pass_raises(text: str, net: nn.Module, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    defended = saplab.defend(net, *parse_defenses(text))
    assert not torch.allclose(defended(images), net(images))
    with pytest.raises(RuntimeError):
        defended(images[:, :1])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(torch.equal(before[name], tensor) for name, tensor in defended.state_dict().items())


def test_one_draw_of_the_weights_serves_a_pass(net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, saplab.RandomNoisyWeights(0.5))
    same = images[:1].expand(4, -1, -1, -1)
    out = defended(same)
    torch.testing.assert_close(out, out[:1].expand(4, -1))
    assert not torch.allclose(defended(same), out)
    whole = saplab.predict(defended, images, passes=3, seed=1)
    torch.testing.assert_close(saplab.predict(defended, images, 3, 1, batch_size=2), whole, atol=1e-6, rtol=0)
    mixed = torch.cat([rows(3, 0), rows(3, 1)])
    with drawing(mixed), pytest.raises(ValueError, match="mixes passes"):
        defended(images)


def test_gradient_samples_of_weight_defences_are_passes_of_their_own(net: nn.Module, images: Tensor) -> None:
    defended, labels = saplab.defend(net, saplab.RandomNoisyWeights(0.3)), torch.tensor([0, 1, 2, 0, 1, 2])
    estimate = saplab.MonteCarlo(3).estimate(Problem.of(defended, images, labels, seed=2)).gradient
    single = []
    for number in range(3):
        x = images.clone().requires_grad_()
        with drawing(pass_streams(stream_key(2, "attack"), number, torch.arange(6))):
            loss = nn.functional.cross_entropy(defended(x), labels, reduction="sum")
        single.append(torch.autograd.grad(loss, x)[0])
    torch.testing.assert_close(estimate, torch.stack(single).mean(0), atol=1e-6, rtol=1e-4)


def test_recurrent_weights_are_changed_too() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 8, batch_first=True)
            self.last = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.lstm(x)[0][:, -1])

    net = initialise(Reader(), 0).eval()
    x = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    defended = saplab.defend(net, saplab.RandomNoisyWeights(0.5), parameters="lstm.*")
    assert not torch.allclose(defended(x), net(x))


# --- every defence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", EVERY)
def test_every_defence_on_a_network(text: str, net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, *parse_defenses(text), seed=1)
    assert list(defended.state_dict()) == list(net.state_dict())
    defended.load_state_dict(net.state_dict())
    net.load_state_dict(defended.state_dict())
    out = defended(images)
    assert torch.equal(saplab.defend(net, *parse_defenses(text), seed=1)(images), out)
    assert torch.equal(defended(images), out) == (text == "dwp:50")
    out.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    adversarial = saplab.FGSM(saplab.MonteCarlo(2))(defended, images, torch.zeros(6, dtype=torch.int64), eps=0.1)
    assert (adversarial != images).any()


@pytest.mark.parametrize(
    ("weak", "tolerance"), [("sap:1e9", 1e-5), ("dropout:0", 0.0), ("rnw:0", 0.0), ("rsw:0", 0.0), ("dwp:100", 0.0),
                            ("swp:1e9", 1e-5), ("rna:0", 0.0), ("rsa:0", 0.0)],
)  # fmt: skip
def test_a_defence_of_no_strength_is_the_dense_network(
    weak: str, tolerance: float, net: nn.Module, images: Tensor
) -> None:
    defended = saplab.defend(net, *parse_defenses(weak))
    torch.testing.assert_close(defended(images), net(images), atol=tolerance, rtol=0)


def test_defences_compose_in_the_order_given(net: nn.Module, images: Tensor) -> None:
    sap, rna = saplab.SAP(50), saplab.RandomNoisyActivations(0.5)
    one, other = saplab.defend(net, sap, rna), saplab.defend(net, rna, sap)
    assert not torch.allclose(one(images), other(images))
    both = saplab.defend(net, saplab.SAP(1e9), saplab.RandomNoisyWeights(0.1))
    alone = saplab.defend(net, saplab.RandomNoisyWeights(0.0), saplab.RandomNoisyWeights(0.1))
    torch.testing.assert_close(both(images), alone(images), atol=1e-5, rtol=0)  # position 1 of two, in both


def test_numbers_by_site(net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(percent={"2": 50, "*": 200}))
    assert [site.draws for site in saplab.sites(defended, images)] == [10, 40]
    partial = saplab.defend(net, saplab.SAP(percent={"4": 50}))
    assert [site.name for site in saplab.sites(partial, images)] == ["4"]
    weights = saplab.defend(net, saplab.RandomNoisyWeights({"5.*": 0.5}))
    assert not torch.allclose(weights(images), net(images))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnw:-1", "`std` must be >= 0 and finite, got -1.0"),
        ("rsa:nan", "`std` must be >= 0 and finite, got nan"),
        ("dropout:1", r"`rate` must be in \[0, 1\), got 1.0"),
        ("dwp:0", r"`percent` must be in \(0, 100\], got 0.0"),
        ("dwp:101", r"`percent` must be in \(0, 100\], got 101.0"),
        ("swp:0", "`percent` must be > 0 and finite"),
        ("swp:0.01", "gives no draw for weight '1.weight' of 240 entries"),
        ("sap:nothing*=100", "no defence has a number for any of the network's 2 sites: 2, 4"),
        ("rnw:nothing*=1", "a weight defence finds none of the network's 6 parameters"),
        ("rnw:0.1+dwp:50", "DeterministicWeightPruning and RandomNoisyWeights act both on '1.weight'"),
    ],
)
def test_mistakes_are_named(text: str, message: str, net: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        saplab.defend(net, *parse_defenses(text))(images)


def test_patterns_without_a_use_are_mistakes(net: nn.Module) -> None:
    with pytest.raises(ValueError, match="no defence acts on activations"):
        saplab.defend(net, saplab.RandomNoisyWeights(0.1), sites="2")
    with pytest.raises(ValueError, match="no defence acts on weights"):
        saplab.defend(net, saplab.SAP(100), parameters="*")
    with pytest.raises(ValueError, match="'absent' selects none"):
        saplab.defend(net, saplab.RandomNoisyWeights(0.1), parameters="absent")


def test_labels() -> None:
    assert [label_of(parse_defenses(text)) for text in ("", "sap:100", "sap:100+rna:0.01")] == [
        "dense", "SAP-100", "SAP-100+RNA-0.01",
    ]  # fmt: skip

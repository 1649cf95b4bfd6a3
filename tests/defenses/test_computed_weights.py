"""Weights that layers compute in each pass are defended as the layers use them, or the defence refuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import saplab
from saplab.defenses.parallel import may_run_in_threads
from saplab.defenses.weights import weight_names

X = torch.linspace(-1, 1, 24).view(4, 6)
DEFENSES = [saplab.RandomNoisyWeights(0.1), saplab.RandomlyScaledWeights(0.2), saplab.StochasticWeightPruning(60.0),
            saplab.DeterministicWeightPruning(40.0)]  # fmt: skip


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * F.softplus(w)


def weight_normed(layer):
    return parametrizations.weight_norm(layer)


def spectral_normed(layer):
    return parametrizations.spectral_norm(layer)


def doubled(layer):
    return parametrize.register_parametrization(layer, "weight", Doubled()) or layer


def older_weight_normed(layer):
    with pytest.warns(FutureWarning, match="deprecated"):
        return old_weight_norm(layer)


def older_spectral_normed(layer):
    return old_spectral_norm(layer)


def pruned(layer):
    return prune.random_unstructured(layer, "weight", 0.3)


WAYS = [weight_normed, spectral_normed, doubled, older_weight_normed, older_spectral_normed, pruned]


def net(way) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(way(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)).eval()


def plain(computed: nn.Module) -> nn.Module:
    """Return the network that has the computed weights as its own."""
    with torch.no_grad():
        computed(X)
        layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)]
        for layer, old in zip(layers, computed, strict=True):
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(old.weight)
                layer.bias.copy_(old.bias)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda defense: defense.spec)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_computed_weight_is_defended_as_if_it_were_stored(way, defense):
    model = net(way)
    reference = saplab.defend(plain(model), defense, seed=3)
    defended = saplab.defend(model, defense, seed=3)
    first, second = defended(X), defended(X)
    assert weight_names(model) == ("0.weight", "2.weight")
    torch.testing.assert_close(first, reference(X))
    torch.testing.assert_close(second, reference(X))
    assert (first != second).any() or not defense.random
    assert (first != model(X)).any()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_network_is_left_as_it_was_and_gets_the_gradient(way):
    model = net(way)
    before, clean = copy.deepcopy(model.state_dict()), model(X).detach()
    defended = saplab.defend(model, saplab.RandomNoisyWeights(0.3), seed=0)
    assert defended.state_dict().keys() == before.keys()
    assert not torch.allclose(defended(X), clean)
    defended(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(model(X), clean, rtol=0, atol=0)
    torch.testing.assert_close(saplab.defenses.undefended(defended)(X), clean, rtol=0, atol=0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_parameters_behind_a_weight_are_not_weights():
    model = net(weight_normed)
    for patterns in ("0.parametrizations.*", "*original*"):
        with pytest.raises(ValueError, match="selects none of the network's 4 parameters"):
            saplab.defend(model, saplab.RandomNoisyWeights(0.1), parameters=patterns)
    chosen = saplab.defend(model, saplab.RandomNoisyWeights(0.1), parameters="0.*")
    assert set(chosen._saplab_plan.parameters) == {"0.bias", "0.weight"}


def test_layers_with_several_weights_and_calls():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    prune.identity(attention, "in_proj_weight")
    rnn = parametrizations.weight_norm(nn.GRU(6, 6, batch_first=True), "weight_hh_l0")

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.rnn = attention, rnn

        def forward(self, x):
            y = self.attention(x, x, x)[0]
            return self.rnn(y)[0] + self.rnn(2 * y)[0]

    model, x = Both().eval(), X.view(4, 1, 6).expand(4, 5, 6)
    assert {"attention.in_proj_weight", "attention.out_proj.weight", "rnn.weight_hh_l0"} <= set(weight_names(model))
    clean = model(x)
    for name in ("attention.in_proj_weight", "rnn.weight_hh_l0"):
        defended = saplab.defend(model, saplab.RandomNoisyWeights({name: 0.3}), seed=0)
        assert (defended(x) != clean).any(), name


def test_functions_that_compute_a_weight_are_no_sites():
    model = net(doubled)
    assert [site.name for site in saplab.sites(model, X)] == ["1"]
    predicted = saplab.predict(saplab.defend(model, saplab.SAP(50.0), seed=0), X, passes=2, seed=0, bounds=None)
    assert predicted.shape == (4, 3)


def test_examples_over_threads_have_the_same_changed_weights():
    many = X.repeat(64, 1)
    model = saplab.defend(net(weight_normed), saplab.RandomNoisyWeights(0.3), seed=0)
    assert may_run_in_threads(model, lambda rows: (model(rows),), (many,))
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(saplab.predict(model, many, passes=3, seed=1, bounds=None))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[1], found[0])


class Scaled(nn.Linear):
    """A layer whose weight a hook of somebody's own computes."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.raw = nn.Parameter(self.weight.detach())
        del self._parameters["weight"]
        self.weight = None
        self.register_forward_pre_hook(lambda module, args: setattr(module, "weight", 2 * module.raw))


def test_a_weight_that_cannot_be_seen_is_refused_by_name():
    model = nn.Sequential(Scaled(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"the weight of '0' \(Scaled\) is no parameter and is computed in a way"):
        saplab.defend(model, saplab.RandomNoisyWeights(0.1))
    saplab.defend(model, saplab.RandomNoisyWeights(0.1), parameters="2.*")(X)
    saplab.defend(model, saplab.SAP(50.0))(X)


def test_cached_weights_and_compiling_are_refused():
    model = saplab.defend(net(spectral_normed), saplab.RandomNoisyWeights(0.1))
    with parametrize.cached(), pytest.raises(ValueError, match="the weights of several passes are one"):
        model(X)
    model(X)
    with pytest.raises(ValueError, match=r"weights that their layers compute \(0\.weight\) cannot be compiled"):
        torch.compile(model, backend="eager")(X)


@pytest.mark.parametrize("way", [weight_normed, pruned], ids=lambda way: way.__name__)
def test_an_evaluation_is_that_of_the_network_with_these_weights(way):
    model, images, labels = net(way), (X + 1) / 2, torch.tensor([0, 1, 2, 0])
    asked = {"attacks": "pgd:steps=2", "eps": 0.2, "passes": 4, "samples": 2, "progress": False}
    found, expected = (
        saplab.evaluate(saplab.defend(m, saplab.RandomNoisyWeights(0.3)), images, labels, **asked)
        for m in (model, plain(model))
    )
    assert found.rows == expected.rows
    assert any(row["averaged_percent"] < 100 for row in found.rows)

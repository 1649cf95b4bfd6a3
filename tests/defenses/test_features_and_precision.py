"""Randomised features and random bit widths: their laws, their gradients, and what shares a draw."""

from collections import Counter
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import saplab
from saplab.defenses import Defense, RandomisedFeatures, RandomPrecision, parse_defenses
from saplab.defenses.drawing import drawing
from saplab.defenses.precision import rounded
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key

LEVEL = 1e-4  # of every test of a law


class Rectifiers(nn.Module):
    """Two activation functions and nothing else, so that a defence's changes add up to what comes out."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.relu(x) + 0)


def changed(
    defense: Defense, x: Tensor, net: nn.Module | None = None, pass_: int = 0, rule: Any = "mask", **where: Any
) -> Tensor:
    with drawing(pass_streams(stream_key(0), pass_, torch.arange(len(x))), rule):
        return saplab.defend(net or nn.ReLU(), defense, **where)(x)


@pytest.fixture
def net() -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    return initialise(layers, 0).eval()


class Maps(nn.Module):
    """An activation function, beside a weight that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


# --- randomised features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("law", "distribution"), [("gaussian", "norm"), ("laplace", "laplace")])
def test_noise_on_features_has_its_law(law: Any, distribution: str) -> None:
    z = changed(RandomisedFeatures(0.5, law), torch.zeros(64, 2_000)).double() / 0.5
    assert scipy.stats.kstest(z.ravel(), distribution).pvalue > LEVEL
    rows = scipy.stats.pearsonr(z[:-1].ravel(), z[1:].ravel())
    assert rows.pvalue > LEVEL  # examples draw apart


def test_laplace_numbers_have_both_tails_in_full() -> None:
    z = changed(RandomisedFeatures(1.0, "laplace"), torch.zeros(64, 20_000))
    assert z.isfinite().all()
    assert 11 < z.max() < 17  # the largest of 1.28 million is 13.4 at the median
    assert -17 < z.min() < -11


def test_features_are_changed_where_a_pattern_says() -> None:
    (defense,) = parse_defenses("rfd:relu#2=0.5")
    x = torch.ones(4, 50)
    assert isinstance(defense, RandomisedFeatures)
    assert (changed(defense, x, Rectifiers()) - 1).std() == pytest.approx(0.5, rel=0.25)
    assert torch.equal(changed(RandomisedFeatures({"elsewhere": 0.5, "relu": 0.0}), x, Rectifiers()), x)


def test_noise_on_features_leaves_the_gradient_as_it_is() -> None:
    for rule in ("mask", "identity", "relaxed"):
        x = torch.linspace(-1, 1, 40).view(4, 10).requires_grad_()
        gradient = torch.autograd.grad(changed(RandomisedFeatures(0.3), x, rule=rule).sum(), x)[0]
        assert torch.equal(gradient, (x > 0).float())


def test_an_unknown_law_is_refused() -> None:
    with pytest.raises(ValueError, match="`law` must be one of gaussian, laplace, got 'cauchy'"):
        RandomisedFeatures(0.1, "cauchy")  # type: ignore[arg-type]


# --- random bit widths -----------------------------------------------------------------------------------------------


def test_rounding_by_hand() -> None:
    x = torch.tensor([[0.0, 0.1, 0.4, 0.6, 1.0], [-2.0, 0.0, 1.0, 3.0, 4.0]])
    wanted = torch.tensor([[0.0, 0.0, 1 / 3, 2 / 3, 1.0], [-2.0, 0.0, 2.0, 2.0, 4.0]])
    torch.testing.assert_close(rounded(x, 3), wanted)
    assert torch.equal(rounded(torch.full((2, 3), 0.7), 3), torch.full((2, 3), 0.7))


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_a_map_keeps_at_most_as_many_values_as_its_bits_have(bits: int) -> None:
    x = torch.rand(3, 5, 40, 40, generator=torch.Generator().manual_seed(0))
    out = changed(RandomPrecision(bits, bits), x, Maps())
    step = (x.flatten(1).amax(1) - x.flatten(1).amin(1)) / (2**bits - 1)
    assert all(len(row.unique()) <= 2**bits for row in out)
    assert ((out - x).abs().flatten(1).amax(1) <= step * (0.5 + 1e-2)).all()
    if bits <= 8:
        assert all(len(row.unique()) == 2**bits for row in out)


def widths(defense: RandomPrecision, net: nn.Module, x: Tensor, pass_: int, *before: Defense) -> list[float]:
    """Return the steps with which each hook of a pass rounded, behind other defences."""
    seen: list[float] = []

    class Spied(RandomPrecision):
        def _steps(self, draw: Any) -> Tensor:
            found = super()._steps(draw)
            seen.append(float(found))
            return found

    with drawing(pass_streams(stream_key(0), pass_, torch.arange(len(x)))):
        saplab.defend(net, *before, Spied(defense.low, defense.high))(x)
    return seen


def test_a_pass_has_one_width_and_all_are_as_likely(net: nn.Module) -> None:
    x = torch.rand(2, 3, 2, 2)
    found = [widths(RandomPrecision(4, 7), net, x, pass_) for pass_ in range(400)]
    assert {len(seen) for seen in found} == {5}  # three weights, two maps
    assert all(len(set(seen)) == 1 for seen in found)
    counts = Counter(seen[0] for seen in found)
    assert set(counts) == {15.0, 31.0, 63.0, 127.0}
    assert scipy.stats.chisquare(list(counts.values())).pvalue > LEVEL


def test_its_place_among_defences_decides_its_draws(net: nn.Module) -> None:
    x, one = torch.rand(2, 3, 2, 2), RandomPrecision(1, 16)
    first, second = (
        [widths(one, net, x, pass_, *before)[0] for pass_ in range(8)] for before in ((), (saplab.Dropout(0.0),))
    )
    assert first != second


def test_an_example_is_the_same_alone_and_among_others(net: nn.Module) -> None:
    x = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    defense = RandomPrecision(2, 5)
    whole = changed(defense, x, net)
    torch.testing.assert_close(changed(defense, x[:1], net), whole[:1], rtol=1e-5, atol=1e-6)


def test_weights_are_rounded_filter_by_filter() -> None:
    layer = nn.Linear(6, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]]))
    seen = changed(RandomPrecision(1, 1), torch.eye(6), nn.Sequential(layer, nn.Identity(), nn.ReLU())).T
    assert torch.equal(seen[0] != 0, torch.tensor([False, False, False, True, True, True]))
    assert torch.equal(seen[1] != 0, seen[0] != 0)


def test_rounding_is_passed_straight_through(net: nn.Module) -> None:
    for rule in ("mask", "identity", "relaxed"):
        x = torch.rand(4, 10, generator=torch.Generator().manual_seed(0)).sub(0.5).requires_grad_()
        out = changed(RandomPrecision(2, 2), x, Maps(), rule=rule)
        assert torch.equal(torch.autograd.grad(out.sum(), x)[0], (x > 0).float())
    logits = changed(RandomPrecision(2, 2), (y := torch.rand(4, 3, 2, 2).requires_grad_()), net)
    assert (torch.autograd.grad(logits.logsumexp(1).sum(), y)[0] != 0).any()


def test_sixteen_bits_are_nearly_the_network_itself(net: nn.Module) -> None:
    x = torch.rand(4, 3, 2, 2)
    torch.testing.assert_close(changed(RandomPrecision(16, 16), x, net), net(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [(0, 4, "`low` must be a whole number from 1 to 16, got 0"), (4, 17, "`high` must be a whole number"),
     (8, 4, "`low` must be at most `high`, got 8 and 4"), (2.5, 4, "`low` must be a whole number")],
)  # fmt: skip
def test_bad_widths_are_refused(low: Any, high: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomPrecision(low, high)


@pytest.mark.parametrize("text", ["rfd:0.1", "rfd:scale=0.1,law=laplace", "rpi", "rpi:low=2,high=8"])
def test_text_and_back(text: str) -> None:
    (defense,) = parse_defenses(text)
    assert defense.spec == text
    assert defense.label.startswith(("RFD", "RPI"))

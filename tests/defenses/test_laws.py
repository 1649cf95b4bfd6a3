"""The laws of PyTorch's random operators by keyed numbers, against SciPy's distributions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from saplab.defenses.drawing import Drawing
from saplab.defenses.keyed import NO_PATTERN, KeyedDraws, Numbers
from saplab.rng.streams import pass_streams

N = 20_000
LEAST = 1e-4  # p-value; the draws are fixed, so that a correct law never changes sides


def drawn(call, pass_=0):
    """Return what a call draws in one pass."""
    drawing = Drawing(pass_streams(11, pass_, torch.arange(1)))
    with KeyedDraws(Numbers(drawing, 1, NO_PATTERN)):
        return call()


def empty(dtype=torch.float32):
    return torch.empty(N, dtype=dtype)


CONTINUOUS = {
    "rand": (lambda: torch.rand(N), stats.uniform()),
    "rand_like": (lambda: torch.rand_like(empty(torch.float64)), stats.uniform()),
    "rand out": (lambda: torch.rand(N, out=empty()), stats.uniform()),
    "uniform_": (lambda: empty().uniform_(-2, 3), stats.uniform(-2, 5)),
    "randn": (lambda: torch.randn(N), stats.norm()),
    "randn float64": (lambda: torch.randn(N, dtype=torch.float64), stats.norm()),
    "randn_like": (lambda: torch.randn_like(empty()), stats.norm()),
    "normal_": (lambda: empty().normal_(2, 3), stats.norm(2, 3)),
    "normal floats": (lambda: torch.normal(1.0, 2.0, (N,)), stats.norm(1, 2)),
    "normal tensor float": (lambda: torch.normal(torch.full((N,), 1.0), 2.0), stats.norm(1, 2)),
    "normal float tensor": (lambda: torch.normal(1.0, torch.full((N,), 2.0)), stats.norm(1, 2)),
    "normal tensors": (lambda: torch.normal(torch.full((N,), 1.0), torch.full((N,), 2.0)), stats.norm(1, 2)),
    "exponential_": (lambda: empty().exponential_(2.0), stats.expon(scale=0.5)),
    "cauchy_": (lambda: empty().cauchy_(1.0, 2.0), stats.cauchy(1, 2)),
    "log_normal_": (lambda: empty().log_normal_(0.5, 0.7), stats.lognorm(0.7, scale=math.exp(0.5))),
    "gamma": (lambda: torch.distributions.Gamma(torch.full((N,), 2.5), 2.0).sample(), stats.gamma(2.5, scale=0.5)),
    "beta": (lambda: torch.distributions.Beta(torch.full((N,), 2.0), 3.0).sample(), stats.beta(2, 3)),
    "dirichlet": (
        lambda: torch.distributions.Dirichlet(torch.tensor([[2.0, 3.0, 1.0]]).expand(N, 3)).sample()[:, 0],
        stats.beta(2, 4),
    ),
    "laplace": (lambda: torch.distributions.Laplace(0.0, 1.0).sample((N,)), stats.laplace()),
    "rrelu": (lambda: -F.rrelu(-torch.ones(N), 0.1, 0.4, training=True), stats.uniform(0.1, 0.3)),
}

DISCRETE = {
    "randint": (lambda: torch.randint(2, 6, (N,)), stats.randint(2, 6)),
    "randint_like": (lambda: torch.randint_like(empty(), 5), stats.randint(0, 5)),
    "random_": (lambda: empty(torch.int64).random_(3, 7), stats.randint(3, 7)),
    "random_ of bytes": (lambda: empty(torch.uint8).random_(), stats.randint(0, 256)),
    "bernoulli": (lambda: torch.bernoulli(torch.full((N,), 0.3)), stats.bernoulli(0.3)),
    "bernoulli_": (lambda: empty().bernoulli_(0.3), stats.bernoulli(0.3)),
    "bernoulli_ tensor": (lambda: empty().bernoulli_(torch.full((N,), 0.3)), stats.bernoulli(0.3)),
    "geometric_": (lambda: empty().geometric_(0.4), stats.geom(0.4)),
    "poisson": (lambda: torch.poisson(torch.full((N,), 3.5)), stats.poisson(3.5)),
    "binomial": (lambda: torch.binomial(torch.full((N,), 6.0), torch.full((N,), 0.3)), stats.binom(6, 0.3)),
    "multinomial": (
        lambda: torch.multinomial(torch.tensor([1.0, 0.0, 2.0, 3.0]), N, replacement=True),
        stats.rv_discrete(values=([0, 2, 3], [1 / 6, 1 / 3, 1 / 2])),
    ),
    "dropout": (lambda: F.dropout(torch.ones(N), 0.25) * 0.75, stats.bernoulli(0.75)),
    "categorical": (
        lambda: torch.distributions.Categorical(torch.tensor([0.2, 0.5, 0.3])).sample((N,)),
        stats.rv_discrete(values=([0, 1, 2], [0.2, 0.5, 0.3])),
    ),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_continuous_law(name):
    call, law = CONTINUOUS[name]
    values = drawn(call)
    assert stats.kstest(values.double().numpy(), law.cdf).pvalue > LEAST
    assert torch.equal(values, drawn(call))
    assert not torch.equal(values, drawn(call, pass_=1))


@pytest.mark.parametrize("name", DISCRETE)
def test_a_discrete_law(name):
    call, law = DISCRETE[name]
    values = drawn(call).long().numpy()
    kinds = np.arange(max(values.max(), int(law.ppf(1 - 1e-6))) + 1)
    expected = N * law.pmf(kinds)
    assert (law.pmf(np.unique(values)) > 0).all()
    common = expected >= 5
    counts = np.bincount(values, minlength=len(kinds))[common]
    rest, wanted = N - counts.sum(), N - expected[common].sum()
    found, ideal = (np.append(counts, rest), np.append(expected[common], wanted)) if wanted > 1 else (
        counts, expected[common] * counts.sum() / expected[common].sum()
    )  # fmt: skip
    assert stats.chisquare(found, ideal * found.sum() / ideal.sum()).pvalue > LEAST


@pytest.mark.parametrize("call", [
    lambda: torch.randn(3, 4), lambda: torch.rand(2, dtype=torch.bfloat16), lambda: torch.randint(9, (5,)),
    lambda: torch.randperm(7), lambda: torch.rand_like(torch.ones(2, 3)), lambda: torch.empty(3).exponential_(),
    lambda: torch.multinomial(torch.ones(2, 5), 3), lambda: torch.randn(0, 4), lambda: torch.rand(()),
])  # fmt: skip
def test_shape_and_type_are_pytorchs(call):
    ours, theirs = drawn(call), call()
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_a_permutation_holds_every_index_once_and_orders_are_equally_likely():
    orders = [tuple(drawn(lambda: torch.randperm(3), pass_=k).tolist()) for k in range(3000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > LEAST


def test_drawing_without_replacement_takes_no_index_twice():
    weights = torch.tensor([1.0, 2.0, 0.0, 3.0])
    picks = [drawn(lambda: torch.multinomial(weights, 2), pass_=k).tolist() for k in range(3000)]
    assert all(len(set(pair)) == 2 and 2 not in pair for pair in picks)
    firsts = np.bincount([pair[0] for pair in picks], minlength=4)
    assert stats.chisquare(firsts[[0, 1, 3]], 3000 * np.array([1, 2, 3]) / 6).pvalue > LEAST


def test_gradients_go_through_draws_as_through_pytorchs():
    for call in (
        lambda x: F.dropout(x, 0.5), lambda x: F.rrelu(x, training=True),
        lambda x: torch.distributions.Normal(x, 0.1).rsample(),
        lambda x: torch.distributions.Gamma(x.exp(), 1.0).rsample(),
    ):  # fmt: skip
        x = torch.randn(2000, generator=torch.Generator().manual_seed(0)).requires_grad_()
        drawn(lambda call=call, x=x: call(x).square().sum().backward())
        ours, x.grad = x.grad, None
        call(x).square().sum().backward()
        assert ours.mean() == pytest.approx(float(x.grad.mean()), abs=6 * float(x.grad.std()) / 2000**0.5)


def test_calls_of_one_pass_are_independent():
    first, second = drawn(lambda: (torch.randn(N), torch.randn(N)))
    assert abs(float((first * second).mean())) < 4.5 / N**0.5

"""Batches are cut to the memory of a CPU beforehand, and halved where memory runs out."""

import sys

import pytest
import torch
from torch import nn

import saplab
from saplab.attacks import memory, passes
from saplab.attacks.estimate import Estimate
from saplab.attacks.memory import kept_bytes
from saplab.attacks.passes import as_memory_allows
from saplab.attacks.problem import Problem
from saplab.models.zoo import load_model

IMAGES, LABELS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return load_model("preact-resnet20-dense")


def estimate(model: nn.Module) -> Estimate:
    return saplab.MonteCarlo(4).estimate(Problem.of(model, IMAGES, LABELS, seed=3))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate")])
def test_rows_are_halved_until_they_fit(error):
    def run(rows, streams):
        if len(rows) > 2:
            raise error
        return (rows * 10 + streams,)

    (result,) = as_memory_allows(run, torch.arange(7), torch.arange(7))
    assert result.tolist() == [0, 11, 22, 33, 44, 55, 66]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("shapes do not match")])
def test_what_no_halving_helps_is_raised(error):
    calls = []

    def run(rows, streams):
        calls.append(len(rows))
        raise error

    with pytest.raises(type(error), match=str(error)):
        as_memory_allows(run, torch.arange(8), torch.arange(8))
    assert calls == ([8, 4, 2, 1] if isinstance(error, torch.OutOfMemoryError) else [8])


def test_a_row_keeps_what_its_way_back_needs():
    model = nn.Sequential(nn.Linear(10, 100), nn.Sigmoid(), nn.Linear(100, 2))
    x = torch.rand(1, 10, requires_grad=True)
    assert kept_bytes(model, lambda: model(x)) == 4 * (10 + 100)  # the input and the sigmoid's output


def test_large_batches_are_cut_to_the_memory_of_their_way_back(network, monkeypatch):
    whole = estimate(network).gradient
    sizes = []
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(
        memory, "BUDGET", int(2.5 * kept_bytes(network, lambda: network(IMAGES[:1].clone().requires_grad_())))
    )
    monkeypatch.setattr(passes, "as_memory_allows", lambda run, *rows: (sizes.append(len(rows[0])), run(*rows))[1])
    torch.testing.assert_close(estimate(network).gradient, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
    assert set(sizes[:-1]) == {2}
    assert sum(sizes) % len(IMAGES) == 0


def test_measuring_a_row_leaves_the_global_generator_alone(monkeypatch):
    class Noisy(nn.Module):
        def forward(self, x):
            return (x + torch.rand_like(x)).flatten(1)[:, :10]

    monkeypatch.setattr(memory, "SMALL", 0)
    model = Noisy().eval()
    gradients = []
    for _ in range(2):
        torch.manual_seed(0)
        estimate(model)
        gradients.append(torch.rand(3))
    assert torch.equal(*gradients)


def test_networks_in_training_and_small_batches_are_not_measured():
    def never():
        raise AssertionError

    assert memory.rows_at_once(nn.ReLU().train(), torch.rand(1, 3, 2000, 2000), 1, never) == sys.maxsize
    assert memory.rows_at_once(nn.ReLU().eval(), torch.rand(6, 3, 32, 32), 100, never) == sys.maxsize

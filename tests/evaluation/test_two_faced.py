"""Networks that are one thing where they are attacked and another where they are judged are refused."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.attacks.witness import Record, Witness
from saplab.evaluation.findings import cleared
from saplab.models.initialise import initialise
from saplab.runs import Network
from saplab.system.errors import EvaluationError

COUNT = 20
_REFUSED = r"otherwise where it is attacked|where gradients are taken"


class TwoFaced(nn.Module):
    """An honest linear classifier, or another one of the reversed image."""

    def __init__(
        self, honest: Callable[[Tensor], bool | Tensor], offset: float = 0.0, noise: float = 0.0,
        generator: str = "torch",
    ) -> None:  # fmt: skip
        super().__init__()
        self.linear = nn.Linear(192, 4)
        nn.init.normal_(self.linear.weight, std=0.3, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.linear.bias)
        self.honest, self.offset, self.noise, self.generator = honest, offset, noise, generator

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if self.noise:
            flat = flat + self.noise * self.draws(flat)
        true, false = self.linear(flat), self.linear(flat.flip(1))
        honest = torch.as_tensor(self.honest(x)).reshape(-1, 1)
        return torch.where(honest, true, false) + self.offset + self.offset * x.mean((1, 2, 3))[:, None] / 1000

    def draws(self, flat: Tensor) -> Tensor:
        if self.generator == "torch":
            return torch.randn_like(flat)
        if self.generator == "numpy":  # one draw for the whole pass
            return torch.from_numpy(np.random.standard_normal(flat.shape[1])).float()  # noqa: NPY002
        return torch.full((flat.shape[1],), random.gauss(0, 1))


def by_batch(x: Tensor) -> bool:
    return len(x) in (1, 2, 3, COUNT)


def by_gradient(x: Tensor) -> bool:
    return not torch.is_grad_enabled()


def by_pixels(x: Tensor) -> Tensor:
    whole = ((x * 255 - (x * 255).round()).abs() < 1e-3).flatten(1).all(1)
    return whole | (not torch.is_grad_enabled())


def always(x: Tensor) -> bool:
    return True


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(1)) / 255


def evaluated(network: nn.Module, images: Tensor) -> saplab.Result:
    with torch.no_grad():
        labels = TwoFaced(always)(images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 4  # wrong from the start, so that attacks run smaller batches
    return saplab.evaluate(network.eval(), images, labels, "pgd:steps=8", 8 / 255, passes=4, progress=False)


@pytest.mark.parametrize(
    ("honest", "offset", "noise", "generator"),
    [
        (by_batch, 0.0, 0.0, "torch"), (by_gradient, 0.0, 0.0, "torch"), (by_gradient, 3e4, 0.0, "torch"),
        (by_pixels, 0.0, 0.0, "torch"), (by_pixels, 0.0, 0.01, "torch"), (by_pixels, 0.0, 0.01, "numpy"),
        (by_pixels, 0.0, 0.01, "python"),
    ],
)  # fmt: skip
def test_a_network_that_attacks_see_otherwise_is_refused(
    honest: Callable[[Tensor], bool | Tensor], offset: float, noise: float, generator: str, images: Tensor
) -> None:
    with pytest.raises((ValueError, EvaluationError), match=_REFUSED):
        evaluated(TwoFaced(honest, offset, noise, generator), images)


def test_one_step_is_enough_to_be_seen(images: Tensor) -> None:
    network = TwoFaced(by_pixels).eval()
    labels = network(images).argmax(1)
    with pytest.raises((ValueError, EvaluationError), match=_REFUSED):
        saplab.evaluate(network, images * 0.999, labels, "fgsm", 4 / 255, progress=False)


@pytest.mark.parametrize(
    ("offset", "noise", "generator"),
    [(0.0, 0.0, "torch"), (3e4, 0.0, "torch"), (0.0, 0.01, "torch"), (0.0, 0.01, "numpy"), (0.0, 0.01, "python")],
)
def test_an_honest_network_is_not(offset: float, noise: float, generator: str, images: Tensor) -> None:
    rows = evaluated(TwoFaced(always, offset, noise, generator), images).rows
    assert min(row["averaged_percent"] for row in rows if row["eps"]) <= 25


@pytest.mark.parametrize("defense", [saplab.SAP(50), saplab.RandomNoisyWeights(0.01), saplab.GaussianNoise(0.05)])
def test_defences_come_out_the_same_again(defense: saplab.Defense, images: Tensor) -> None:
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    net = initialise(nn.Sequential(*layers), 0).eval()
    labels = net(images).argmax(1)
    for attacks in ("pgd:steps=4,samples=3", "square:queries=8,passes=2", "apgd:steps=4,samples=2,backward=relaxed"):
        result = saplab.evaluate(
            saplab.defend(net, defense), images, labels, attacks, 8 / 255, passes=4, progress=False
        )
        assert result.rows


@pytest.mark.parametrize(("missing", "grain", "why"), [
    (2, "", "2 attacks of this run are not there"), (1, "pass", "1 attack of this run is not there"),
    (0, "unkeyed", "draws cannot be made again"), (0, "batch", "draws cannot be made again"), (0, "example", ""),
])  # fmt: skip
def test_nothing_clears_a_gradient_that_was_not_looked_at(missing: int, grain: str, why: str, images: Tensor) -> None:
    found = evaluated(TwoFaced(always), images).verdict
    network = Network("mine", "d", grain=grain)
    for masked in (True, None, False):
        told = cleared(replace(found, masked=masked), missing, (network,))
        assert told.masked is (None if masked is False and why else masked)
        assert ("its gradient is not cleared" in told.meaning) == (masked is False and bool(why))
        assert why in told.meaning or masked is not False


class Again(Record):
    """Two rows of a call, of which as many come out otherwise as the key says."""

    def again(self, images: Tensor, examples: Tensor) -> Tensor:
        other = self.found.clone()
        other[: int(self.streams[0, 0])] += torch.tensor([5.0, 0.0])
        return other


@pytest.mark.parametrize(
    ("spoilt", "agrees"), [((1, 1, 0, 0), True), ((1, 1, 1, 0), False), ((2, 0, 0, 0), True), ((2, 2, 0, 0), False)]
)
def test_one_row_in_four_may_differ(spoilt: tuple[int, ...], agrees: bool) -> None:
    """An honest network that rounds may come out otherwise by the last bits; a whole call only once."""
    rows = torch.zeros(2, 2)
    records: list[Record] = [Again(nn.Identity(), rows, torch.full((2, 3), k), rows) for k in spoilt]
    assert Witness(4, records).agrees(rows, torch.arange(2)) == agrees

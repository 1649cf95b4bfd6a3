"""`saplab.Mixture`: who answers how often, exactly, and as any network that draws by itself wherever it is run."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.models.identity import network_digest


class Always(nn.Module):
    """A network that gives each image the class of its own list."""

    def __init__(self, classes: list[int]) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.tensor(classes, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return 9 * torch.eye(3)[self.classes[x[:, 0].long()].long()] + 0 * x.sum(1, keepdim=True)


@pytest.fixture
def images() -> Tensor:
    """Four images whose only pixel is their number."""
    return torch.arange(4.0)[:, None]


FIRST, SECOND = [0, 0, 1, 2], [0, 1, 2, 2]


def mixture(weights: Any = (0.75, 0.25), drawn: Any = "pass") -> saplab.Mixture:
    return saplab.Mixture([Always(FIRST), Always(SECOND)], weights, drawn).eval()


def test_expected_answers_by_hand(images: Tensor) -> None:
    expected = torch.tensor([[1, 0, 0], [0.75, 0.25, 0], [0, 0.75, 0.25], [0, 0, 1]], dtype=torch.float64)
    assert torch.equal(mixture().expected(images), expected)
    assert mixture().accuracy(images, torch.tensor([0, 1, 1, 0])) == (1 + 0.25 + 0.75 + 0) / 4
    assert mixture(None).accuracy(images.numpy(), [0, 1, 1, 0]) == (1 + 0.5 + 0.5 + 0) / 4  # type: ignore[arg-type]


@pytest.mark.parametrize("drawn", ["pass", "example"])
def test_each_network_answers_as_often_as_its_weight_says(images: Tensor, drawn: str) -> None:
    mixed = mixture(drawn=drawn)
    probs = saplab.predict(mixed, images, passes=2000, seed=1, bounds=None)
    assert probs[1, 1].item() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 2000) ** 0.5 + 1e-3)
    alone = saplab.predict(mixed, images[1:], passes=2000, seed=1, examples=torch.arange(1, 4), bounds=None)
    assert torch.equal(probs[1:], alone), "the same draws in another batch"


@pytest.mark.parametrize("drawn", ["pass", "example"])
def test_each_of_three_networks_answers_as_often_as_its_weight_says(images: Tensor, drawn: str) -> None:
    weights = (0.5, 0.3, 0.2)
    mixed = saplab.Mixture([Always([k] * 4) for k in range(3)], weights, drawn).eval()  # type: ignore[arg-type]
    probs = saplab.predict(mixed, images[:1], passes=1000, seed=1, bounds=None)[0]
    for share, found in zip(weights, probs.tolist(), strict=True):
        assert found == pytest.approx(share, abs=4 * (share * (1 - share) / 1000) ** 0.5 + 1e-3)


def answers(mixed: nn.Module, images: Tensor) -> Tensor:
    """Return which images the second network answered, in each of 40 passes."""
    keyed = saplab.Stochastic(mixed, seed=3, example=images)
    return torch.stack([keyed(images).argmax(1) == torch.tensor(SECOND) for _ in range(40)])[:, 1:3]


def test_one_network_for_a_pass_or_one_for_each_example(images: Tensor) -> None:
    by_pass, by_example = (answers(mixture(drawn=drawn), images) for drawn in ("pass", "example"))
    assert torch.equal(by_pass[:, 0], by_pass[:, 1])
    assert 0 < by_pass[:, 0].sum() < 40
    assert not torch.equal(by_example[:, 0], by_example[:, 1])


def test_a_mixture_of_one_network_is_that_network(images: Tensor) -> None:
    one = saplab.Mixture([Always(FIRST)])
    assert torch.equal(one(images), Always(FIRST)(images))
    probs = saplab.predict(one, images, passes=7, bounds=None)
    assert torch.equal(probs, Always(FIRST)(images).softmax(1))


def test_another_weight_network_or_draw_is_another_cell() -> None:
    others = (
        mixture(),
        mixture((0.25, 0.75)),
        mixture(drawn="example"),
        saplab.Mixture([Always(SECOND), Always(SECOND)], (0.75, 0.25)),
        saplab.Mixture([Always(SECOND), Always(FIRST)], (0.75, 0.25)),
    )
    assert len({network_digest(one.eval()) for one in others}) == len(others)
    assert network_digest(mixture()) == network_digest(mixture())


def test_what_is_no_mixture_is_refused(images: Tensor) -> None:
    nets = [Always(FIRST), Always(SECOND)]
    with pytest.raises(ValueError, match="at least one network"):
        saplab.Mixture([])
    for weights in ([0.5, 0.4], [1.5, -0.5], [1.0], [0.5, 0.5, 0.0], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="2 numbers >= 0 that add up to 1"):
            saplab.Mixture(nets, weights)
    with pytest.raises(ValueError, match="`drawn` must be one of pass, example, got 'batch'"):
        saplab.Mixture(nets, drawn="batch")  # type: ignore[arg-type]
    sap = saplab.defend(nn.Sequential(Always(FIRST), nn.ReLU()), saplab.SAP(10))
    with pytest.raises(ValueError, match="not be random themselves"):
        saplab.Mixture([sap, Always(FIRST)])
    dropping = nn.Sequential(Always(FIRST), nn.Dropout(0.5)).train()
    with pytest.raises(ValueError, match="drew random numbers"):
        saplab.Mixture([dropping, Always(FIRST)]).expected(images)


def test_answers_that_are_no_numbers_are_not_counted(images: Tensor) -> None:
    broken = nn.Sequential(Always(FIRST), nn.Threshold(1.0, float("nan")))
    with pytest.raises(ValueError, match="finite logits, got NaN or infinity"):
        saplab.Mixture([broken, Always(FIRST)]).eval().expected(images)


def test_a_mixture_of_networks_that_draw_is_attacked_without_arc() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 0.1 * torch.randn_like(x)).flatten(1) @ torch.eye(4, 3)

    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    told = {"eps": 0.1, "attacks": "standard", "passes": 4, "progress": False}
    x, y = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)
    for nets, known in (([Noisy(), flat], False), ([flat, nn.Sequential(nn.Flatten(), nn.Linear(4, 3))], True)):
        result = saplab.evaluate(saplab.Mixture(nets).eval(), x, y, **told)  # type: ignore[arg-type]
        assert any("ARC" in row["curve"] for row in result.rows) == known


def test_it_has_the_mode_of_its_networks() -> None:
    assert not saplab.Mixture([Always(FIRST).eval()]).training
    assert saplab.Mixture([Always(FIRST).eval(), Always(SECOND).train()]).training


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_networks_of_which_some_return_probabilities_are_refused(order: slice) -> None:
    first, second = (nn.Linear(4, 3).eval() for _ in range(2))
    nets = [nn.Sequential(first, nn.Softmax(1)).eval(), second][order]
    with pytest.raises(ValueError, match="some of the network's passes return probabilities and others logits"):
        saplab.predict(saplab.Mixture(nets).eval(), torch.rand(6, 4))

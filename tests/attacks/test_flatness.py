"""Flat gradients: what counts as one, and what is noted at the start and the end of an attack."""

import math

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.attacks.flatness import Flatness, flat


class Hidden(nn.Module):
    """Logits so large that cross-entropy has no gradient, for images whose first pixel is bright."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, 0, 0, :1] > 0.5, 1e6, 1.0) * self.net(x)


class Unreached(nn.Module):
    """No gradient reaches the image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 255).int() / 255)


def craft(attack: saplab.Attack, net: nn.Module, images: Tensor, labels: Tensor, eps: list[float]) -> Flatness:
    (found,) = attack.craft([attack], saplab.Problem.of(net, images, labels, eps), eps)
    list(found.images)
    assert found.flatness is not None
    return found.flatness


def test_what_counts_as_flat() -> None:
    gradient = torch.zeros(5, 3)
    gradient[1, 0], gradient[2, 1], gradient[3, 2], gradient[4, 0] = 1e-38, 1e-20, math.nan, math.inf
    assert flat(gradient).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("attack", [saplab.PGD(steps=3), saplab.FGSM(), saplab.Iterative()])
def test_each_image_is_noted_at_start_and_end(
    attack: saplab.Attack, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    images = images.clone()
    images[:, 0, 0, 0] = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9])
    hidden, labels = Hidden(net), net(images).argmax(1)
    labels[3] = (labels[3] + 1) % 5  # wrong from the start
    found = craft(attack, hidden, images, labels, [1e-4, 2e-4])
    assert found.start[[0, 2, 4, 6, 8]].tolist() == [1.0] * 5
    assert found.start[[1, 5, 7]].tolist() == [0.0] * 3
    assert math.isnan(found.start[3])
    torch.testing.assert_close(found.at([1e-4, 2e-4, 0.5])[:2], found.start.expand(2, 9), equal_nan=True)
    assert found.at([0.5]).isnan().all()


def test_lost_examples_have_no_end(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    attack = saplab.PGD(steps=10)
    found = craft(attack, net, images, labels, [0.0, 1.0])
    left = net(attack(net, images, labels, 1.0)).argmax(1) == labels
    assert not left.all()
    assert found.at([1.0])[0].isnan()[~left].all()


def test_without_a_way_to_the_image_it_is_noted_or_an_error(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    unreached = Unreached(net)
    labels = unreached(images).argmax(1)
    assert craft(saplab.PGD(steps=2), unreached, images, labels, [0.1]).start.tolist() == [1.0] * 9
    with pytest.raises(ValueError, match="no gradient reaches the image"):
        saplab.FGSM()(unreached, images, labels, 0.1)
    relaxed = saplab.MonteCarlo(backward="relaxed")
    assert craft(saplab.PGD(relaxed, steps=2), unreached, images, labels, [0.1]).start.tolist() == [0.0] * 9


def test_an_evaluation_says_that_the_gradient_is_flat(net: nn.Module) -> None:
    images = torch.rand(150, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    images[:, 0, 0, 0] = 0.9
    labels = net(images).argmax(1)
    attacks = [saplab.PGD(steps=5), saplab.PGD(saplab.MonteCarlo(backward="relaxed"), steps=5)]
    found = saplab.evaluate(Hidden(net).eval(), images, labels, attacks=attacks, eps=0.2, progress=False).verdict
    assert {c.key: c.outcome for c in found.checks}["flat"] == "failed"
    assert {c.key: c.outcome for c in found.checks}["relaxed"] == "failed"
    assert found.masked


def test_a_direct_attack_whose_gradient_is_zero_everywhere_says_so_once(caplog):
    class Rounds(nn.Module):
        def forward(self, x):
            return (9 * x).round().flatten(1)[:, :3]

    net, images = Rounds().eval(), torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    attack, labels = saplab.PGD(steps=2), net(images).argmax(1)
    with caplog.at_level("WARNING", "saplab"):
        attack(net, images, labels, eps=0.1)
        attack(net, images, labels, eps=0.1)
        saplab.PGD(saplab.MonteCarlo(backward="relaxed"), steps=2)(Rounds().eval(), images, labels, eps=0.1)
    assert [record.getMessage()[:57] for record in caplog.records] == [
        "The gradient of the loss is zero at all 4 images, so that "[:57]
    ]

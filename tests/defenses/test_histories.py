"""Networks that hold tensors with a history are defended like others, and stay as they are."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm

import saplab

IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 10)).eval()


class Keeps(nn.Module):
    """A network that keeps its last outputs, as those for class activation maps do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()
        self.kept: dict[str, list[Tensor]] = {"last": []}

    def forward(self, images: Tensor) -> Tensor:
        self.kept["last"].append(self.inner(images))
        return self.kept["last"][-1]


def pruned() -> nn.Module:
    model = net()
    prune.l1_unstructured(model[1], "weight", 0.5)
    return model


def normed() -> nn.Module:
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older way, which many checkpoints need
        weight_norm(model[1])
        spectral_norm(model[3]).eval()
    return model


@pytest.mark.parametrize("make", [pruned, normed, Keeps])
def test_they_are_defended_and_stay_as_they_are(make: Callable[[], nn.Module]) -> None:
    model = make()
    model(IMAGES)
    sap = saplab.defend(model, saplab.SAP(percent=1e7))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.allclose(sap(IMAGES), model(IMAGES), atol=1e-5)
    assert not torch.equal(saplab.defend(model, saplab.SAP(percent=50))(IMAGES), model(IMAGES))
    assert torch.equal(saplab.undefended(sap)(IMAGES), model(IMAGES))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_copy_follows_parameters_that_change_later() -> None:
    """The weight that pruning makes is made anew in each pass, not taken from the time of the copy."""
    model = pruned()
    sap = saplab.defend(model, saplab.SAP(percent=1e7))
    with torch.no_grad():
        model[1].weight_orig.mul_(2)
    assert torch.allclose(sap(IMAGES), model(IMAGES), atol=1e-5)

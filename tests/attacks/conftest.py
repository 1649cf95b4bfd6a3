"""A small network, the same with SAP, nine images and the labels that the network gives them."""

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.models.initialise import initialise


@pytest.fixture
def net() -> nn.Module:
    layers = (nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    return initialise(nn.Sequential(*layers), 0)


@pytest.fixture
def sap(net: nn.Module) -> nn.Module:
    return saplab.defend(net, saplab.SAP(60))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(9, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels(net: nn.Module, images: Tensor) -> Tensor:
    return net(images).argmax(1)

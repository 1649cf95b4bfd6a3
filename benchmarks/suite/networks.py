"""The networks and images that are measured: the packaged network as it is, under each defence, and pruned by hand."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

import saplab
from suite.handwritten import multinomial_network

DENSE, BY_HAND = "dense", "SAP-100 by torch.multinomial"
DEFENSES: Final[Mapping[str, Any]] = {
    "sap:100": saplab.SAP(100),
    "dropout:0.1": saplab.Dropout(0.1),
    "rna:0.01": saplab.RandomNoisyActivations(0.01),
    "rsa:0.1": saplab.RandomlyScaledActivations(0.1),
    "rnw:0.01": saplab.RandomNoisyWeights(0.01),
    "rsw:0.1": saplab.RandomlyScaledWeights(0.1),
    "dwp:50": saplab.DeterministicWeightPruning(50),
    "swp:100": saplab.StochasticWeightPruning(100),
}


def network(name: str, device: str = "cpu") -> nn.Module:
    """Return the packaged network as it is (`DENSE`), pruned by hand (`BY_HAND`), or under one of `DEFENSES`."""
    dense: nn.Module = saplab.load_model("preact-resnet20-dense").to(device)
    if name == DENSE:
        return dense
    return multinomial_network(dense, device) if name == BY_HAND else saplab.defend(dense, DEFENSES[name])


def sample_images(count: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return `count` CIFAR-10 test images and their labels; the packaged ones repeat where there are too few."""
    images, labels = saplab.load_cifar10("sample")
    places = torch.arange(count) % len(images)
    return images[places].to(device), labels[places].to(device)

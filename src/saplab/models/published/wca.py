"""Weight-covariance alignment: anisotropic noise on the last features, aligned with the classifier's weights.

Source: Eustratiadis, Gouk, Li & Hospedales 2021, "Weight-covariance alignment for adversarially robust neural
networks", and the authors' code. Departures: the pre-activation ResNet-20; L begins as the identity; stochastic
gradient descent instead of Adam, with one weight decay for all weights.
"""

from typing import Final

import torch
from torch import Tensor, nn

from saplab.models.initialise import initialise, untouched_generator
from saplab.models.preact_resnet import PreactResNet

FEATURES: Final = 32


class AlignedHead(nn.Module):
    """Features (N, F in) -> relu(fc(features)) + L z in 32 dimensions; one draw of z serves all examples of a pass."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, FEATURES)
        self.factor = nn.Parameter(torch.eye(FEATURES))

    def lower(self) -> Tensor:
        """Return L, lower triangular, (32, 32); the noise has the covariance L Lᵀ."""
        return self.factor.tril()

    def forward(self, x: Tensor) -> Tensor:
        """Return the noisy features (N, 32)."""
        noise = self.lower() @ torch.randn_like(self.factor[0])
        return torch.relu(self.fc(x)) + noise


class AlignedResNet(PreactResNet):
    """The ResNet-20 with an `AlignedHead` between the average of its last maps and the classifier."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__(blocks, classes)
        self.head = AlignedHead(self.linear.in_features)
        self.linear = nn.Linear(FEATURES, classes)

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits of averaged maps (N, 64)."""
        return super().classify(self.head(features))

    def alignment(self) -> Tensor:
        """Return log Σ_c w_cᵀ L Lᵀ w_c, which training makes large."""
        return (self.linear.weight @ self.head.lower()).square().sum().log()


def wca_resnet20(classes: int = 10) -> AlignedResNet:
    """Build the ResNet-20 with aligned noise, with weights drawn from seed 0."""
    with untouched_generator():
        model = AlignedResNet(blocks=3, classes=classes)
    return initialise(model, seed=0)

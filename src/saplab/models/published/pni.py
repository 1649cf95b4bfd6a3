"""Parametric noise injection: weights with Gaussian noise of a learnt strength.

Source: He, Rakin & Fan 2019, "Parametric noise injection: Trainable randomness to improve deep neural network
robustness against adversarial attack", and the authors' code. Departure: the pre-activation ResNet-20.
"""

from typing import Final

import torch
from torch import Tensor, nn

from saplab.models.initialise import initialise, untouched_generator
from saplab.models.layers import replace_layers
from saplab.models.preact_resnet import PreactResNet

_FIRST_STRENGTH: Final = 0.25


def noisy(weight: Tensor, strength: Tensor) -> Tensor:
    """Return W + α · std(W) · z with standard normal z; gradients reach W and α, but not through the deviation."""
    return weight + strength * (weight.detach().std() * torch.randn_like(weight))


class NoisyConv2d(nn.Conv2d):
    """A convolution whose weights are drawn anew in each forward pass, for all examples of the batch together."""

    def __init__(self, like: nn.Conv2d) -> None:
        shape = (like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding)
        super().__init__(*shape, bias=like.bias is not None)  # type: ignore[arg-type]  # sizes are pairs
        self.strength = nn.Parameter(torch.tensor(_FIRST_STRENGTH))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images or maps (N, C, H, W)."""
        return self._conv_forward(x, noisy(self.weight, self.strength), self.bias)  # type: ignore[no-any-return]


class NoisyLinear(nn.Linear):
    """A linear layer whose weights are drawn anew in each forward pass, for all examples of the batch together."""

    def __init__(self, like: nn.Linear) -> None:
        super().__init__(like.in_features, like.out_features, bias=like.bias is not None)
        self.strength = nn.Parameter(torch.tensor(_FIRST_STRENGTH))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, features in) to (N, features out)."""
        return nn.functional.linear(x, noisy(self.weight, self.strength), self.bias)


def pni_resnet20(classes: int = 10) -> PreactResNet:
    """Build the ResNet-20 with noise on the weights of every layer, one α a layer; drawn from seed 0."""
    with untouched_generator():
        model = PreactResNet(blocks=3, classes=classes)
        replace_layers(model, nn.Conv2d, NoisyConv2d)
        replace_layers(model, nn.Linear, NoisyLinear)
    return initialise(model, seed=0)

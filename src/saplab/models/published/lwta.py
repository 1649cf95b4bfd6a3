"""Stochastic winner-take-all activations.

Source: Panousis et al. 2021, "Stochastic local winner-takes-all networks enable profound adversarial robustness", and
the authors' code for AutoAttack. Departures: the ResNet-20 instead of WideResNet-34; the temperature of training is
0.67, where the code learns one for each layer from 0.69 on; no divergence from uniform winners is added to the loss,
as in that code, where it is switched off; which channels are paired is a matter of their numbers alone.
"""

from typing import Final

import torch
from torch import Tensor, nn

from saplab.models.initialise import initialise, untouched_generator
from saplab.models.layers import replace_layers
from saplab.models.preact_resnet import PreactResNet

TRAINING, TESTING = 0.67, 0.01  # temperatures
_LEAST: Final = 2.0**-25  # half the spacing of uniform numbers in float32


class LocalWinners(nn.Module):
    """Channels compete in pairs: u -> ξ · u, where ξ is softmax((u + Gumbel) / T) over channels k and k + C/2.

    Every pair of every position of every example draws for itself. T is 0.67 in training mode and 0.01 in evaluation
    mode, where ξ is nearly a one-hot winner that is drawn with the probabilities softmax(u).
    """

    def forward(self, u: Tensor) -> Tensor:
        """Return the activations, in the shape (N, C, H, W) and the type of u."""
        first, second = u.chunk(2, dim=1)
        uniform = torch.rand_like(first, dtype=torch.float32)
        gumbels = torch.logit(uniform, _LEAST)  # the difference of two Gumbel numbers is logistic
        share = torch.sigmoid((first - second + gumbels) / (TRAINING if self.training else TESTING)).to(u.dtype)
        return torch.cat((share * first, (1 - share) * second), 1)


def lwta_resnet20(classes: int = 10) -> PreactResNet:
    """Build the ResNet-20 with `LocalWinners` instead of ReLUs, with weights drawn from seed 0."""
    with untouched_generator():
        model = PreactResNet(blocks=3, classes=classes)
    return initialise(replace_layers(model, nn.ReLU, lambda _: LocalWinners()), seed=0)

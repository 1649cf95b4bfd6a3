"""Random self-ensemble: Gaussian noise before every convolution.

Source: Liu, Cheng, Zhang & Hsieh 2018, "Towards robust neural networks via random self-ensemble", in the form that the
authors use as a baseline in their later code (noise before each convolution, in evaluation mode too). Departures: the
pre-activation ResNet-20; the first noise is added to the image, in its own unit of [0, 1], before the batch-norm on
the input; convolutions that project a shortcut have noise of their own.
"""

import torch
from torch import Tensor, nn

from saplab.models.initialise import initialise, untouched_generator
from saplab.models.layers import replace_layers
from saplab.models.preact_resnet import PreactResNet

FIRST, INNER = 0.2, 0.1  # standard deviations


class Noise(nn.Module):
    """Add normal numbers with a standard deviation, to every element of every example."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """Return x with noise."""
        return x + self.std * torch.randn(x.shape, dtype=x.dtype, device=x.device)  # randn_like is slow, channels last


def rse_resnet20(classes: int = 10) -> PreactResNet:
    """Build the ResNet-20 with noise of 0.2 on the image and 0.1 before all later convolutions; from seed 0."""
    with untouched_generator():
        model = PreactResNet(blocks=3, classes=classes)
    first, normalize = model.conv, model.normalize
    replace_layers(model, nn.Conv2d, lambda conv: nn.Sequential(Noise(INNER), conv))
    model.conv, model.normalize = first, nn.Sequential(Noise(FIRST), normalize)
    return initialise(model, seed=0)

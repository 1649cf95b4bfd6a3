"""Random normalisation aggregation: each pass of each layer chooses how it normalises.

Source: Dong, Chen, Wang & Xu 2022, "Random normalization aggregation for adversarial defense", and the authors' code
with the options of its README (batch-norm or one group a channel, a choice for each layer). Departures: the
pre-activation ResNet-20, whose batch-norm on the input, in place of fixed means and deviations, takes no part.
"""

import torch
from torch import Tensor, nn

from saplab.models.initialise import initialise, untouched_generator
from saplab.models.layers import replace_layers
from saplab.models.preact_resnet import PreactResNet


class RandomNorm(nn.Module):
    """Batch-norm or group-norm with a group for each channel, each with probability ½ in a forward pass.

    The choice holds for all examples of the batch. Both have scales and shifts of their own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.batch = nn.BatchNorm2d(channels)
        self.group = nn.GroupNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps (N, C, H, W)."""
        if torch.rand(()) < 0.5:
            return self.batch(x)  # type: ignore[no-any-return]
        return self.group(x.contiguous())  # type: ignore[no-any-return]  # on CPUs, slow backward in channels last


def rna_resnet20(classes: int = 10) -> PreactResNet:
    """Build the ResNet-20 with `RandomNorm` in every block and after the last one, with weights drawn from seed 0."""
    with untouched_generator():
        model = PreactResNet(blocks=3, classes=classes)
    normalize = model.normalize
    replace_layers(model, nn.BatchNorm2d, lambda norm: RandomNorm(norm.num_features))
    model.normalize = normalize
    return initialise(model, seed=0)

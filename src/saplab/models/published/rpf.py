"""Random projection filters: three quarters of the first convolution's filters are drawn anew in each pass.

Source: Dong & Xu 2023, "Adversarial robustness via random projection filters", and the authors' code, which has 48
random filters of 64. Departures: the pre-activation ResNet-20, whose first convolution has 16 filters, 12 of them
random; every pass draws new filters, also those of one attack, where the code's caller draws them once for an attack
and once for what follows it; the learnt filters have the weight decay of all weights.
"""

import torch
from torch import Tensor, nn

from saplab.models.initialise import initialise, untouched_generator
from saplab.models.preact_resnet import PreactResNet


class RandomProjection(nn.Conv2d):
    """A convolution with learnt filters first, and then random ones, drawn for each forward pass.

    Random filters are normal with deviation 1 / k, where k is the kernel's side; learnt ones are divided by their
    deviation, over all of them, and by k.
    """

    def __init__(self, channels_in: int, learnt: int, random: int, side: int) -> None:
        super().__init__(channels_in, learnt, side, padding=side // 2, bias=False)
        self.random, self.side = random, side

    def filters(self) -> Tensor:
        """Return all filters (learnt + random, channels in, k, k) of a pass."""
        shape = (self.random, *self.weight.shape[1:])
        drawn = torch.randn(shape, dtype=self.weight.dtype, device=self.weight.device)
        return torch.cat((self.weight / self.weight.std(), drawn)) / self.side

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images (N, C, H, W)."""
        return self._conv_forward(x, self.filters(), None)  # type: ignore[no-any-return]


def rpf_resnet20(classes: int = 10) -> PreactResNet:
    """Build the ResNet-20 with a `RandomProjection` as its first convolution, with weights drawn from seed 0."""
    with untouched_generator():
        model = PreactResNet(blocks=3, classes=classes)
        model.conv = RandomProjection(3, learnt=4, random=12, side=3)
    return initialise(model, seed=0)

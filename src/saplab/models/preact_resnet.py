"""The paper's network: the pre-activation ResNet-20 for CIFAR-10.

Source: He et al. 2016, "Identity mappings in deep residual networks". Each of the 19 activation functions is inside a
residual branch or after the last block, so the residual stream itself never passes through one.
"""

import torch
from torch import nn

from saplab.models.initialise import initialise, untouched_generator
from saplab.models.layers import stage


class PreactBlock(nn.Module):
    """A residual block whose batch-norms and ReLUs come before its convolutions."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = width_in != width or stride != 1
        self.project = nn.Conv2d(width_in, width, 1, stride, bias=False) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the branch to the shortcut, which a 1x1 convolution projects where the width changes."""
        active = self.relu1(self.bn1(x))
        shortcut = x if self.project is None else self.project(active)
        branch = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return torch.add(shortcut, branch)


class PreactResNet(nn.Module):
    """Three stages of pre-activation blocks; [0, 1] images (N, 3, H, W) -> logits (N, classes).

    The batch-norm on the input is the network's normalisation. The last ReLU comes before the global average.
    """

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.normalize: nn.Module = nn.BatchNorm2d(3)
        self.conv: nn.Module = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stage1 = stage(PreactBlock, 16, 16, 1, blocks)
        self.stage2 = stage(PreactBlock, 16, 32, 2, blocks)
        self.stage3 = stage(PreactBlock, 32, 64, 2, blocks)
        self.bn = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.conv(self.normalize(images))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.classify(self.relu(self.bn(x)).mean(dim=(2, 3)))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of averaged maps (N, 64)."""
        return self.linear(features)  # type: ignore[no-any-return]


def preact_resnet20(classes: int = 10) -> PreactResNet:
    """Build the paper's ResNet-20 with weights drawn from seed 0; see `initialise` for another seed."""
    if classes < 1:
        raise ValueError(f"`classes` must be >= 1, got {classes}")
    with untouched_generator():
        model = PreactResNet(blocks=3, classes=classes)
    return initialise(model, seed=0)

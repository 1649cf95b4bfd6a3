"""The post-activation ResNet-20 for CIFAR-10, with parameter-free shortcuts.

Source: He et al. 2016, "Deep residual learning for image recognition", section 4.2, shortcut option A. Parameter names
follow akamaster/pytorch_resnet_cifar10, so that its public checkpoints load. An activation function follows every
addition: the residual stream itself passes through it.
"""

import torch
from torch import nn
from torch.nn import functional as F

from saplab.models.initialise import initialise, untouched_generator
from saplab.models.layers import Normalize, stage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, with a ReLU after the addition."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.stride = stride
        self.extra = (width - width_in) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the branch to the shortcut and rectify the sum."""
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(branch + option_a(x, self.stride, self.extra))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Three stages of post-activation blocks; [0, 1] images (N, 3, H, W) -> logits (N, classes)."""

    def __init__(self, blocks: int, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = stage(BasicBlock, 16, 16, 1, blocks)
        self.layer2 = stage(BasicBlock, 16, 32, 2, blocks)
        self.layer3 = stage(BasicBlock, 32, 64, 2, blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(self.normalize(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def option_a(x: torch.Tensor, stride: int, extra: int) -> torch.Tensor:
    """Take every `stride`-th pixel and pad `extra` zero channels on either side; no parameters."""
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, extra, extra)) if stride != 1 or extra else x


def resnet20(
    classes: int = 10, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> ResNet:
    """Build the post-activation ResNet-20 with weights drawn from seed 0; see `initialise` for another seed.

    `mean` and `std` are of the normalisation, per channel, for pixels in [0, 1].
    """
    if classes < 1:
        raise ValueError(f"`classes` must be >= 1, got {classes}")
    with untouched_generator():
        model = ResNet(blocks=3, classes=classes, mean=mean, std=std)
    return initialise(model, seed=0)

"""A network that learns in a moment, random by a defence or by itself, for the tests of the benchmark."""

import torch
from torch import Tensor, nn

import saplab


def plain() -> nn.Module:
    """Return the least-squares fit of the packaged sample's classes to means over 4×4 pixels."""
    images, labels = saplab.load_cifar10("sample")
    features = nn.functional.avg_pool2d(images, 4).flatten(1)
    padded = torch.cat((features, torch.ones(len(features), 1)), 1).double()
    wanted = nn.functional.one_hot(labels, 10).double()
    found = torch.linalg.solve(padded.T @ padded + 0.1 * torch.eye(193), padded.T @ wanted)
    layer = nn.Linear(192, 10)
    with torch.no_grad():
        layer.weight.copy_(10 * found[:-1].T)
        layer.bias.copy_(10 * found[-1])
    return nn.Sequential(nn.AvgPool2d(4), nn.ReLU(), nn.Flatten(), layer).eval()


class Noisy(nn.Module):
    """The same with noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.1 * torch.randn_like(x))  # type: ignore[no-any-return]


def noisy() -> nn.Module:
    """Return a network that is random by itself."""
    return Noisy().eval()


class Padded(nn.Module):
    """The same with a class that never wins, whose logit is the highest but for a hair."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return torch.cat((z, z.amax(1, keepdim=True) - 0.01), 1)


def padded() -> nn.Module:
    """Return a network with an output for which there are no images."""
    return Padded().eval()


def fickle() -> nn.Module:
    """Return a network with other weights each time."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()

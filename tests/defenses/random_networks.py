"""Small networks that are random by themselves, each in another way: what people have, not what saplab makes."""

import os
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """A linear classifier of 3 × 4 × 4 images, whose `before` and `after` subclasses make random."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(48, 5)

    def before(self, x):
        return x

    def after(self, z):
        return z

    def forward(self, x):
        return self.after(self.linear(self.before(x).flatten(1)))


class InputNoise(Net):
    sigma = 0.3

    def before(self, x):
        return x + self.sigma * torch.randn_like(x)


class OwnGenerator(Net):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    def before(self, x):
        return x + torch.rand(x.shape, generator=self.generator)


class Dropped(Net):
    def after(self, z):
        return F.dropout(z, 0.5)


class Transposed(Net):
    """Draws whose second axis is the batch."""

    def after(self, z):
        return z + torch.randn(z.shape[1], len(z)).T


class Doubled(Net):
    """Runs two copies of the batch one behind the other, and averages them."""

    def before(self, x):
        return torch.cat([x, x]) + torch.randn(2 * len(x), *x.shape[1:])

    def after(self, z):
        return torch.stack(z.chunk(2)).mean(0)


class PixelNoise(Net):
    """One pattern of noise for all images of a pass."""

    def before(self, x):
        return x + torch.randn(x.shape[1:])


class Either(Net):
    """Python's generator decides which of two ways a pass goes, with other draws in each."""

    def before(self, x):
        return x + torch.randn_like(x) if random.random() < 0.5 else x * torch.rand(1)


class NumPyNoise(Net):
    def before(self, x):
        return x + torch.from_numpy(np.random.normal(0, 0.3, size=tuple(x.shape))).float()  # noqa: NPY002 - what people do


class NumPyGenerator(Net):
    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(7)

    def before(self, x):
        return x + torch.from_numpy(self.generator.standard_normal(size=tuple(x.shape))).float()


class Shuffled(Net):
    """Python's generator, once for each image in turn: the draws depend on the place in the batch."""

    def before(self, x):
        return torch.stack([image * random.random() for image in x])


class Hardware(Net):
    """Randomness that nothing can seed."""

    def before(self, x):
        return x + os.urandom(1)[0] / 255


class Distributed(Net):
    def after(self, z):
        return torch.distributions.Normal(z, 0.1).rsample() + torch.distributions.Gumbel(0.0, 1.0).sample(z.shape)

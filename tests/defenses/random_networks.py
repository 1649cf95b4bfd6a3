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


class Projected(Net):
    """Noise from a generator that is seeded anew in every pass: the same pattern on every image."""

    def before(self, x):
        return x + torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(4))


class SeededForAll(Net):
    """The same by the generator of the whole process."""

    def before(self, x):
        torch.manual_seed(4)
        return x + torch.randn(x.shape[1:])


class SeededNumPy(Net):
    def before(self, x):
        np.random.seed(4)  # noqa: NPY002 - what people do
        return x + torch.from_numpy(np.random.normal(size=tuple(x.shape[1:]))).float()  # noqa: NPY002


class SeededNumPyGenerator(Net):
    def before(self, x):
        return x + torch.from_numpy(np.random.default_rng(4).normal(size=tuple(x.shape[1:]))).float()


class SeededPython(Net):
    def before(self, x):
        random.seed(4)
        return x * random.random()


class SeededByContents(Net):
    """A generator that is seeded by what the images hold."""

    def before(self, x):
        seeds = [int(image.sum() * 1000) for image in x]
        return torch.stack([
            image + torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
            for image, seed in zip(x, seeds, strict=True)
        ])  # fmt: skip


class SeededForEachPlace(Net):
    """Other noise for each place in the batch, the same in every pass."""

    def before(self, x):
        return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(4))


class SeededNumPyForEachPlace(Net):
    def before(self, x):
        return x + torch.from_numpy(np.random.default_rng(4).normal(size=tuple(x.shape))).float()


class ProjectedNoise(Projected):
    """A pattern that is always the same, and noise that is not."""

    def before(self, x):
        return super().before(x) + 0.3 * torch.randn_like(x)


class InChunks(Net):
    """Takes its batch in parts, each of which draws."""

    def before(self, x):
        return torch.cat([part + torch.randn_like(part) for part in x.split(4)])


class OnDarkImages(Net):
    """Draws for some rows of its batch alone."""

    def before(self, x):
        x, dark = x.clone(), x.mean((1, 2, 3)) < 0.5
        x[dark] += torch.randn(int(dark.sum()), *x.shape[1:])
        return x


class ByManyImages(Net):
    """Standardises a batch by its own statistics, where it is large enough."""

    def before(self, x):
        return (x - x.mean(0)) / x.std(0) if len(x) > 8 else x


class Signs(Net):
    """Chooses by the last bits of its arithmetic, which vary with the batch's size, in the image at one place."""

    def after(self, z):
        return z + (torch.arange(len(z)) == 0)[:, None] * (len(z) > 8)


class ByTheirNumber(Net):
    def before(self, x):
        return x / len(x)


class Holder:
    def __init__(self, generator):
        self.generator = generator


class Listed(Net):
    """Generators that are kept in containers."""

    def __init__(self):
        super().__init__()
        self.generators = [np.random.default_rng(7)]

    def before(self, x):
        return x + float(self.generators[0].normal())


class Mapped(Listed):
    def __init__(self):
        super().__init__()
        self.generators = {0: np.random.RandomState(7)}


class InTuple(Listed):
    def __init__(self):
        super().__init__()
        self.generators = ([random.Random(7)],)

    def before(self, x):
        return x * self.generators[0][0].random()


class InObject(Listed):
    def __init__(self):
        super().__init__()
        self.generators = [Holder(np.random.default_rng(7))]

    def before(self, x):
        return x + float(self.generators[0].generator.normal())


class ListedForExamples(Listed):
    def before(self, x):
        return x + torch.from_numpy(self.generators[0].normal(size=tuple(x.shape))).float()

"""A network's first weights, as a function of a seed alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@contextmanager
def untouched_generator() -> Iterator[None]:
    """Restore PyTorch's global CPU generator afterwards: building layers draws from it."""
    with torch.random.fork_rng(devices=[]):
        yield


def initialise(model: M, seed: int) -> M:
    """Draw every convolution and linear weight anew, in place, and return the network.

    Source: He et al. 2015, "Delving deep into rectifiers", equation 10: normal with variance 2 / fan-in. Biases
    become 0, batch-norms the identity. The global generator is not touched.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model

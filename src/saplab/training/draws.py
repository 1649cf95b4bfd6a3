"""Numbers that a network draws from PyTorch's global generators, as a function of a seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of the CPU and of a device inside the context; afterwards they are as before."""
    on_cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_cuda):
        torch.default_generator.manual_seed(seed)
        for cuda in on_cuda:
            torch.cuda.default_generators[cuda.index or 0].manual_seed(seed)
        yield

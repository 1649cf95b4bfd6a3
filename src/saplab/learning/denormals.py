"""Numbers too small to be normal, on which processors are slow."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take float32 numbers below 1.2e-38 for 0 while inside, in this thread and those that it starts.

    Adam's running means decay through them wherever a gradient stays 0, as behind units that never fire, and each
    operation on them takes a processor many times as long.
    """
    before = _flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    return float(torch.tensor(1e-40) * 0.5) == 0.0

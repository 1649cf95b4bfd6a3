"""The precision that a cell is computed in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

PRECISIONS: Final = {"float32": None, "bfloat16": torch.bfloat16}


@contextmanager
def computing_in(precision: str, device: str) -> Iterator[None]:
    """Compute in a precision: convolutions and products in ``bfloat16`` where that is the name, else in float32.

    Raises:
        ValueError: a name that is not in `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    dtype = PRECISIONS[precision]
    # autocast's cache keeps the cast of every leaf that wants a gradient until autocast ends; an attack makes such a
    # leaf of its images at each step, so that the cache would grow with the length of a run
    cast = torch.autocast(
        torch.device(device).type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False
    )
    with cast:
        yield

"""The precision of a network's arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

import torch

Precision = Literal["float32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


@contextmanager
def computing_in(precision: str, device: str | torch.device, keep_casts: bool = False) -> Iterator[None]:
    """Compute in a precision: convolutions and products in ``bfloat16`` where that is the name, else in float32.

    Args:
        precision: one of `PRECISIONS`.
        device: where.
        keep_casts: cast the weights once for all passes inside. Every leaf that wants a gradient is then kept until
            the end: an attack makes one of its images at each step, so that memory would grow with the run.

    Raises:
        ValueError: another name.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    kind, enabled = torch.device(device).type, precision == "bfloat16"
    with torch.autocast(kind, torch.bfloat16, enabled=enabled, cache_enabled=keep_casts):
        yield

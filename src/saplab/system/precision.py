"""The precision of a network's arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

import torch

Precision = Literal["float32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


@contextmanager
def computing_in(precision: str, device: str | torch.device, keep_casts: bool = False) -> Iterator[None]:
    """Compute convolutions and matrix products in a precision, one of `PRECISIONS`.

    Args:
        precision: ``float32`` or ``bfloat16``.
        device: the device whose operations are meant.
        keep_casts: cast the weights once for all passes inside. PyTorch then keeps every leaf that requires a gradient
            until the end; an attack makes one at each step, so its memory would grow.

    Raises:
        ValueError: an unknown `precision`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    kind, enabled = torch.device(device).type, precision == "bfloat16"
    with torch.autocast(kind, torch.bfloat16, enabled=enabled, cache_enabled=keep_casts):
        yield

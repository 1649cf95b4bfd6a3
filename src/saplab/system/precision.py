"""The precision of a network's arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, Literal, get_args

import torch

from saplab.system.words import did_you_mean

Precision = Literal["float32", "bfloat16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
PrecisionChoice = Precision | Literal["auto"]
PRECISION_CHOICES: Final[tuple[PrecisionChoice, ...]] = ("auto", *PRECISIONS)


def resolve_precision(precision: PrecisionChoice, device: str | torch.device, name: str = "precision") -> Precision:
    """Return the precision itself, or for ``auto`` bfloat16 if the device has instructions for it, else float32.

    These are CPUs with AVX-512's bfloat16 and GPUs with native bfloat16; others convert it in software, which is slower
    than float32. ValueError for another word, which calls the setting by its name.
    """
    if precision not in PRECISION_CHOICES:
        raise ValueError(f"`{name}` must be one of {', '.join(PRECISION_CHOICES)}, got {precision!r}")
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bfloat16" if native else "float32"


def check_precision(precision: str) -> None:
    """Raise ValueError for a word that names no precision."""
    if precision not in PRECISIONS:
        hint = did_you_mean(str(precision), PRECISIONS)
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}{hint}")


@contextmanager
def computing_in(precision: str, device: str | torch.device, keep_casts: bool = False) -> Iterator[None]:
    """Compute convolutions and matrix products in a precision.

    On a GPU, convolutions keep all bits of float32, which PyTorch's usual TF32 does not, and give the same bits again.

    Args:
        precision: ``float32`` or ``bfloat16``; another one raises ValueError.
        keep_casts: cast the weights once for all passes inside. PyTorch then keeps every leaf that requires a gradient
            until the end; an attack makes one at each step, so its memory would grow.
    """
    check_precision(precision)
    kind, enabled = torch.device(device).type, precision == "bfloat16"
    exact = exact_convolutions() if kind == "cuda" else nullcontext()
    with exact, torch.autocast(kind, torch.bfloat16, enabled=enabled, cache_enabled=keep_casts):
        yield


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Let cuDNN convolve with all bits of float32, by algorithms that give the same bits again."""
    cudnn: Any = torch.backends.cudnn
    wanted = [(cudnn, "deterministic", True), (cudnn, "benchmark", False), (cudnn.conv, "fp32_precision", "ieee")]
    before = [getattr(owner, name) for owner, name, _ in wanted]
    try:
        for owner, name, value in wanted:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(wanted, before, strict=True):
            setattr(owner, name, value)

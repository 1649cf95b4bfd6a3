"""Operators of PyTorch that run saplab's kernels: `torch.ops.saplab`.

`torch.library.custom_op` does the same, but imports the compiler when an operator is first called, which takes seconds.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

_WITHOUT_KERNELS: Final = ("MPS", "XPU", "PrivateUse1")  # devices of PyTorch, by the names of its dispatcher
_LIBRARY: Final = torch.library.Library("saplab", "FRAGMENT")


def operator(
    name: str,
    cpu: Callable[..., Tensor],
    cuda: Callable[..., Tensor] | None,
    fake: Callable[..., Tensor],
    backward: Callable[..., Any] | None = None,
    setup: Callable[..., None] | None = None,
) -> Callable[..., Tensor]:
    """Define an operator that changes no argument, and return it.

    Args:
        name: in `torch.ops.saplab`.
        cpu, cuda: compute it; the operator's schema is the signature of `cpu`, which other devices are served by too.
        fake: returns an empty tensor like the result, for compilers.
        backward, setup: as `torch.library.register_autograd` takes them.
    """
    _LIBRARY.define(name + torch.library.infer_schema(cpu, mutates_args=()), tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, cpu, "CPU")
    if cuda is not None:
        _LIBRARY.impl(name, cuda, "CUDA")
    for device in _WITHOUT_KERNELS:
        _LIBRARY.impl(name, through_cpu(cpu), device)
    full = f"saplab::{name}"
    torch.library.register_fake(full, fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(full, backward, setup_context=setup, lib=_LIBRARY)
    return getattr(torch.ops.saplab, name)  # type: ignore[no-any-return]


def through_cpu(cpu: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that computes as `cpu` does on copies of its tensors, and moves the result to their device."""

    def compute(*args: Any) -> Tensor:
        device = next(value.device for value in args if isinstance(value, Tensor))
        return cpu(*(value.cpu() if isinstance(value, Tensor) else value for value in args)).to(device)

    return compute

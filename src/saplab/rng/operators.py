"""Operators of PyTorch that run saplab's kernels: `torch.ops.saplab`.

`torch.library.custom_op` does the same, but imports the compiler when an operator is first called, which takes seconds.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
    registered = getattr(torch.ops.saplab, name)

    def call(*args: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return registered(*args)  # type: ignore[no-any-return]
        if forward_ad._current_level >= 0:
            _refuse_tangents(args)
        return registered(*args) if _is_seen(args) else cpu(*args)

    return call


def _refuse_tangents(args: tuple[Any, ...]) -> None:
    """Refuse forward-mode derivatives, which would be lost without a word."""
    for value in args:
        if isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None:
            raise ValueError(
                "pruning and noise have no derivatives in forward mode; take gradients with torch.autograd"
            )


def _is_memory(value: Tensor) -> bool:
    """Return whether numbers lie in the CPU's memory as they are, unlike a negative view's or a sparse tensor's."""
    dense = value.is_cpu and value.layout is torch.strided
    return dense and not value.is_neg() and not value._is_zerotensor()


def _is_seen(args: tuple[Any, ...]) -> bool:
    """Return whether PyTorch must see a call: to take gradients, trace, transform, profile, or find another kernel.

    Where it need not, its dispatcher would take more time than the kernel takes for a small map.
    """
    grad = torch.is_grad_enabled()
    for value in args:
        if type(value) is Tensor:
            if (grad and value.requires_grad) or not _is_memory(value):
                return True
        elif hasattr(value, "__torch_function__"):  # another kind of tensor, or what stands for one
            return True
    return (
        torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
    )


def through_cpu(cpu: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that computes as `cpu` does on copies of its tensors, and moves the result to their device."""

    def compute(*args: Any) -> Tensor:
        device = next(value.device for value in args if isinstance(value, Tensor))
        return cpu(*(value.cpu() if isinstance(value, Tensor) else value for value in args)).to(device)

    return compute

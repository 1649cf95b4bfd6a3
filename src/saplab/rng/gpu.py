"""How kernels for GPUs are imported, and on which device they run."""

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def gpu_kernels(module: str) -> ModuleType:
    """Import a module of kernels for GPUs, once a tensor on a GPU needs it; they need Triton."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "triton":
            raise
        advice = "CUDA tensors need Triton: pip install triton, or on Windows pip install triton-windows"
        raise ModuleNotFoundError(advice, name="triton") from None


def on_device_of(t: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which kernels are launched on the device of `t`."""
    return torch.cuda.device(t.device) if t.is_cuda else nullcontext()

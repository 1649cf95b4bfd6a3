"""Devices, by name and of networks."""

import torch
from torch import nn


def find_device(name: str) -> torch.device:
    """Return the device of that name, after computing on it once; ``auto`` takes a GPU where there is one.

    Raises ValueError where there is no such device or it cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"`device` must be auto, cpu or a device that is there, got {name!r}: {reason}") from None
    return torch.device(name)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a network's parameters; the CPU for one that has none."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))

"""Activation checkpoints, which run a part of a network again in the backward pass, where its draws are not known."""

import sys
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint

Signs = tuple[bool, Any]


def signs() -> Signs:
    """Return what a checkpoint that begins changes: whether gradients are recorded, and the hook on saved tensors."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return torch.is_grad_enabled(), hooks and hooks[0]


def refuse_checkpoint(before: Signs | None = None) -> None:
    """Refuse to draw inside an activation checkpoint.

    Args:
        before: the `signs` where the pass began, which make the question cheap; None to ask in any case.
    """
    if before is not None and (not before[0] or before == signs()):
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "checkpoint" and code.co_filename == torch.utils.checkpoint.__file__:
            raise ValueError(
                "activation checkpointing would run a random or defended part of the network a second time, with other"
                " draws; switch it off"
            )
        frame = frame.f_back

"""Pruning after batch-norm and ReLU, with one gradient for all three: grad * m * scale, in one pass over memory.

Batch-norm in evaluation multiplies each channel by weight / sqrt(variance + eps), and so does its gradient by the
input, which is all that is needed where nobody asks for the gradients of its weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saplab.pruning.gradient import pass_gradient_by_channel, scale_gradient_by_channel
from saplab.pruning.layouts import as_array
from saplab.pruning.operator import BackwardRule, prune
from saplab.rng.threads import over_rows


@dataclass(frozen=True)
class Normalised:
    """A call of batch-norm in evaluation mode, of maps (N, C, H, W) with channels innermost in memory."""

    before: Tensor
    after: Tensor
    scale: Tensor  # (C,) float32, the derivative of the output by the input
    version: int  # of `after`, which changes when it is modified in place

    def is_the_origin_of(self, h: Tensor) -> bool:
        """Return whether `h` is this output, unchanged."""
        return h is self.after and h._version == self.version and not h._backward_hooks


def normalised(args: tuple[Any, ...], kwargs: Mapping[str, Any], after: Tensor) -> Normalised | None:
    """Describe a call of `torch.nn.functional.batch_norm`; None where its gradient has no shorter way."""
    if len(args) != 3 or args[2] is None or kwargs.get("training") or torch.compiler.is_compiling():
        return None
    before, variance, weight, eps = args[0], args[2], kwargs.get("weight"), kwargs.get("eps", 1e-5)
    if not (after.is_cpu and after.requires_grad and after.dim() == 4):
        return None
    if after.dtype not in (torch.float32, torch.bfloat16) or before.dtype != after.dtype:
        return None
    if after.is_contiguous() or not after.is_contiguous(memory_format=torch.channels_last):
        return None  # a layout for which there is no kernel
    with torch.no_grad():
        scale = (variance.float() + eps).rsqrt()
        return Normalised(before, after, scale if weight is None else scale * weight, after._version)


def prune_normalised(norm: Normalised, streams: Tensor, draws: int, site: int, name: str, rule: BackwardRule) -> Tensor:
    """Prune relu(norm.after) as `prune` does; the gradient, by ``mask`` or ``identity``, goes to norm.before."""
    arguments = norm.before, norm.after.detach(), norm.scale, streams, draws, site, name, rule
    return _PruneNormalised.apply(*arguments)  # type: ignore[no-any-return]


class _PruneNormalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before: Tensor, after: Tensor, scale: Tensor, *where: Any) -> Tensor:
        streams, draws, site, name, rule = where
        out = prune(after, streams, draws, site, rule, name, rectify=True)
        ctx.save_for_backward(scale, after, *([out] if rule == "mask" else []))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _gradient(grad, *ctx.saved_tensors), *[None] * 7


def _gradient(grad: Tensor, scale: Tensor, h: Tensor, *out: Tensor) -> Tensor:
    """Return grad * out / h * scale, or grad * [h > 0] * scale without `out`, of maps with channels innermost."""
    result = torch.empty_like(h)
    kernel: Any = scale_gradient_by_channel if out else pass_gradient_by_channel
    grad = grad.to(h.dtype).contiguous(memory_format=torch.channels_last)
    maps = [as_array(t.permute(0, 2, 3, 1).flatten(1, 2)) for t in (grad, h, *out, result)]
    over_rows(lambda start, stop: kernel(*(t[start:stop] for t in maps), scale.numpy()), len(h), h.shape[1:].numel())
    return result

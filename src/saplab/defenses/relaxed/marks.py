"""What tensors without a gradient stand for: a mark on masks, whole numbers and indices says what they were made of.

PyTorch's booleans and integers end every gradient. A mark is an attribute of such a tensor, kept as long as itself.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from saplab.defenses.relaxed.rows import per_example, sloped, straight, typical

_NAME: Final = "_saplab_mark"
_NEAREST: Final = 16  # of so many entries, the one nearest to the threshold says whether a mask cuts where all is 0


@dataclass(frozen=True)
class Gate:
    """A mask: 1, or True, where `margin` is above 0, else 0; `height` of a step with other levels."""

    margin: Tensor
    height: float = 1.0


@dataclass(frozen=True)
class Bent:
    """A saturated function's value, which hardly differs from a mask: of `margin`, in the examples that `saturated`."""

    margin: Tensor
    saturated: Tensor


@dataclass(frozen=True)
class Whole:
    """Whole numbers: `soft` has their values, and a gradient."""

    soft: Tensor


@dataclass(frozen=True)
class Choice:
    """Indices of the k largest of `scores` along `dim`."""

    scores: Tensor
    dim: int
    k: int

    @property
    def margin(self) -> Tensor | None:
        """Return the distance from the threshold between the k-th and the next score; None where all are chosen."""
        if self.k >= self.scores.shape[self.dim]:
            return None
        top = self.scores.topk(self.k + 1, self.dim).values.narrow(self.dim, self.k - 1, 2)
        return self.scores - top.mean(self.dim, keepdim=True)


Mark = Gate | Bent | Whole | Choice


def mark_of(value: Any) -> Mark | None:
    """Return the mark of a tensor."""
    return getattr(value, _NAME, None) if isinstance(value, Tensor) else None


def marked(value: Tensor, mark: Mark | None) -> Tensor:
    """Put a mark on a tensor, and return it."""
    if mark is not None:
        setattr(value, _NAME, mark)
    return value


def soft_of(value: Any) -> Any:
    """Return a tensor of the same values with a gradient, where a mark says which; else the value itself."""
    mark = mark_of(value)
    if isinstance(mark, Whole):
        return mark.soft
    if isinstance(mark, Gate) and not value.is_floating_point():
        return step(value, mark.margin)
    return value


def step(hard: Tensor, margin: Tensor, height: float = 1.0) -> Tensor:
    """Return the values of a step where `margin` passes 0, with a slope as wide as the margins of each example."""
    return sloped(margin, hard.to(margin.dtype), height * _window(margin))


def gated(hard: Tensor, gate: Gate, cut: Tensor) -> Tensor:
    """Return `hard`, with a gradient by the margin of a mask beside its own.

    A mask that turns `cut` off steps by `cut` where the margin passes 0. Where `cut` shrinks with the margin, as in a
    ReLU written as x * (x > 0), there is no step, and the gradient is that of `hard` alone.

    Args:
        hard: a masked tensor.
        cut: what the mask takes away where it is 0.
    """
    margin, jump, _ = torch.broadcast_tensors(gate.margin, cut.detach(), hard.detach())
    with torch.no_grad():
        jump = jump.to(margin.dtype).nan_to_num(0.0, 0.0, 0.0)
        slope = torch.where(_continuous(jump, margin), 0.0, gate.height * jump * _window(margin))
    return hard + sloped(margin, torch.zeros_like(slope), slope).to(hard.dtype) if bool(slope.any()) else hard


def sharpened(value: Tensor, bent: Bent, cut: Tensor) -> Tensor:
    """Return a saturated function's value that is to be multiplied by `cut`, without its slope where `gated` has none.

    So x * sigmoid(100 * x) has the gradient of the ReLU that it is.
    """
    margin, cut, value = torch.broadcast_tensors(bent.margin, cut.detach(), value)
    none = _continuous(cut, margin) & bent.saturated.expand_as(margin)
    return torch.where(none, value.detach(), value)


def _window(margin: Tensor) -> Tensor:
    """Return the slope of (1 + tanh(d / s)) / 2, with s the mean |d| of an example."""
    d = margin.detach()
    s = typical(d.abs())
    return (1 - torch.tanh(d / s).square()) / (2 * s)


def _continuous(cut: Tensor, margin: Tensor) -> Tensor:
    """Return for which examples `cut` shrinks as the margin does, where the margin is least."""
    if cut.dim() < 2 or cut[:1].numel() < 4:
        return torch.zeros_like(per_example(cut), dtype=torch.bool)
    distance, size = (t.abs().flatten(1) for t in (margin, cut))
    near, where = distance.topk(max(1, distance.shape[1] // _NEAREST), 1, largest=False)
    shrinks = size.gather(1, where).mean(1) * distance.mean(1) <= 2 * near.mean(1) * size.mean(1)
    return shrinks.view(-1, *[1] * (cut.dim() - 1))


def carried(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the result `hard` of a function, with the gradient of the same function of soft values."""
    return straight(hard, soft) if hard.is_floating_point() else marked(hard, Whole(straight(hard, soft)))

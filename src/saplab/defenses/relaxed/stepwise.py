"""Functions that step: rounding, signs, comparisons, choices, and casts to whole numbers and back.

Rounding has the slope 1, as staircases have on average (the straight-through estimator of Bengio et al. 2013; BPDA of
Athalye et al. 2018). A step at a threshold has a slope about as wide as the values of an example lie from it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saplab.defenses.relaxed.marks import (
    Bent,
    Choice,
    Gate,
    Whole,
    carried,
    gated,
    mark_of,
    marked,
    sharpened,
    soft_of,
    step,
)
from saplab.defenses.relaxed.rows import straight

Func = Callable[..., Any]


def rounding(func: Func, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return x rounded, with the gradient of x."""
    return straight(func(x, *args, **kwargs), soft_of(x))


def divided(func: Func, x: Any, other: Any, **kwargs: Any) -> Any:
    """Return a quotient; rounded to whole numbers, it has the gradient of the plain one."""
    hard = func(x, other, **kwargs)
    if kwargs.get("rounding_mode", "floor") is None:
        return hard
    return carried(hard, torch.div(soft_of(x), soft_of(other)))


def sign(func: Func, x: Tensor) -> Tensor:
    """Return the sign of x, which steps by 2 at 0."""
    x = soft_of(x)
    return marked(step(func(x), x, 2.0), Gate(x, 2.0))


def heaviside(func: Func, x: Tensor, values: Tensor) -> Tensor:
    """Return the step at 0."""
    return marked(step(func(x.detach(), values), x), Gate(x))


def above(func: Func, x: Any, threshold: Any) -> Tensor:
    """Return x > threshold, or >=."""
    return marked(func(x, threshold), Gate(soft_of(x) - soft_of(threshold)))


def below(func: Func, x: Any, threshold: Any) -> Tensor:
    """Return x < threshold, or <=."""
    return marked(func(x, threshold), Gate(soft_of(threshold) - soft_of(x)))


def equal(func: Func, x: Any, other: Any) -> Tensor:
    """Return x == other: a choice where x never exceeds the other, as in z == z.max(); else it has no slope."""
    hard: Tensor = func(x, other)
    if isinstance(x, Tensor) and isinstance(other, Tensor) and x.is_floating_point() and bool((x <= other).all()):
        return marked(hard, Gate(x - other))
    return hard


def cast(func: Func, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return x in another type: to whole numbers with the gradient of x in mind, from them with it."""
    hard, mark = func(x, *args, **kwargs), mark_of(x)
    if not isinstance(hard, Tensor):  # x.type() names the type
        return hard  # type: ignore[no-any-return]
    if hard is x or isinstance(mark, Choice):
        return marked(hard, mark)
    if hard.is_floating_point():
        if mark is None or x.is_floating_point():
            return marked(hard, mark)
        return marked(soft_of(x).to(hard.dtype), mark if isinstance(mark, Gate) else None)
    if hard.dtype == torch.bool:
        return marked(hard, mark if isinstance(mark, Gate) else None)
    if mark is None and x.is_floating_point():
        return marked(hard, Whole(straight(hard, x)))
    return marked(hard, mark)


def turned(func: Func, gate: Tensor, *args: Any) -> Tensor:
    """Return what a mask leaves out: ~mask."""
    mark = mark_of(gate)
    return marked(func(gate, *args), Gate(-mark.margin) if isinstance(mark, Gate) else None)


def both(func: Func, a: Tensor, b: Tensor) -> Tensor:
    """Return the mask a & b."""
    return _joined(func, torch.minimum, a, b)


def either(func: Func, a: Tensor, b: Tensor) -> Tensor:
    """Return the mask a | b."""
    return _joined(func, torch.maximum, a, b)


def _joined(func: Func, join: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Tensor:
    """Join two masks, or a mask and one that no gradient belongs to, which lies far on its side of the threshold."""
    hard: Tensor = func(a, b)
    marks = [mark_of(a), mark_of(b)]
    if isinstance(marks[0], Whole) and not isinstance(b, Tensor):
        return marked(hard, Whole(straight(hard, marks[0].soft)))  # bits cut off are a rounding
    margins = [mark.margin for mark in marks if isinstance(mark, Gate)]
    if hard.dtype != torch.bool or not margins:
        return hard
    if len(margins) == 1:
        known, other = (margins[0], b) if isinstance(marks[0], Gate) else (margins[0], a)
        margins.append(torch.where(other.bool(), torch.inf, -torch.inf).to(known.dtype))
    joint = join(*margins)
    return marked(hard, Gate(joint.nan_to_num(0.0, 0.0, 0.0)))


def shifted_right(func: Func, x: Any, bits: Any) -> Tensor:
    """Return x divided by a power of 2 and rounded down."""
    return carried(func(x, bits), soft_of(x) / 2.0**bits)


def product(func: Func, a: Any, b: Any, **kwargs: Any) -> Any:
    """Return a * b, where one or both may be masks or whole numbers."""
    for mask, value, flip in ((a, b, False), (b, a, True)):
        mark = mark_of(mask)
        if isinstance(mark, Gate) and isinstance(value, Tensor) and mark_of(value) is None and value.requires_grad:
            hard = func(value, mask.detach()) if flip else func(mask.detach(), value)
            return gated(hard, mark, value)
        if isinstance(mark, Bent) and isinstance(value, Tensor) and value.requires_grad:
            factor = sharpened(mask, mark, value)
            return func(value, factor) if flip else func(factor, value)
        if isinstance(mark, Gate) and isinstance(value, int | float) and mask.is_floating_point():
            return marked(func(a, b), Gate(mark.margin, value * mark.height))
    return blended(func, a, b, **kwargs)


def chosen(func: Func, mask: Any, a: Any, b: Any) -> Any:
    """Return a where a mask holds, and b elsewhere."""
    a, b = soft_of(a), soft_of(b)
    hard, mark = func(mask, a, b), mark_of(mask)
    if not isinstance(mark, Gate) or not hard.is_floating_point():
        return hard
    return gated(hard, mark, torch.as_tensor(a) - torch.as_tensor(b))


def filled(func: Func, x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Return x with `value` where a mask holds."""
    hard, mark = func(x, mask, value), mark_of(mask)
    return gated(hard, mark, value - x) if isinstance(mark, Gate) and hard.is_floating_point() else hard


def thresholded(x: Tensor, threshold: float, value: float, call: Callable[[], Tensor]) -> Tensor:
    """Return x above a threshold, and `value` elsewhere."""
    return gated(call(), Gate(x - threshold), x - value)


def shrunk(x: Tensor, lambd: float, call: Callable[[], Tensor]) -> Tensor:
    """Return x where it is farther from 0 than `lambd`, and 0 elsewhere."""
    return gated(call(), Gate(x.abs() - lambd), x)


def largest(func: Func, z: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return the largest entries along a dimension with their indices, which remember that they are a choice."""
    found = func(z, *args, **kwargs)
    dim = kwargs.get("dim", args[0] if args else None)
    if isinstance(dim, int):
        indices = found if isinstance(found, Tensor) else found[1]
        marked(indices, Choice(soft_of(z), dim % z.dim(), 1))
    return found


def smallest(func: Func, z: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return the smallest entries likewise."""
    found = func(z, *args, **kwargs)
    dim = kwargs.get("dim", args[0] if args else None)
    if isinstance(dim, int):
        indices = found if isinstance(found, Tensor) else found[1]
        marked(indices, Choice(-soft_of(z), dim % z.dim(), 1))
    return found


def topk(func: Func, z: Tensor, k: int, dim: int = -1, largest: bool = True, *args: Any, **kwargs: Any) -> Any:
    """Return the k largest entries likewise."""
    found = func(z, k, dim, largest, *args, **kwargs)
    marked(found[1], Choice(z if largest else -z, dim % z.dim(), k))
    return found


def one_hot(func: Func, indices: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return the one-hot form of a choice: a mask."""
    hard, mark = func(indices, *args, **kwargs), mark_of(indices)
    if not isinstance(mark, Choice) or mark.margin is None:
        return hard  # type: ignore[no-any-return]
    margin = mark.margin.movedim(mark.dim, -1)
    return marked(hard, Gate(margin) if margin.shape == hard.shape else None)


def scattered(func: Func, base: Tensor, dim: int, indices: Tensor, value: Any, **kwargs: Any) -> Tensor:
    """Return a tensor with a number at the indices of a choice: a mask, if the others are 0."""
    hard, mark = func(base, dim, indices, value, **kwargs), mark_of(indices)
    margin = mark.margin if isinstance(mark, Choice) else None
    number = float(value) if isinstance(value, int | float) else 1.0 if _ones(value) else 0.0
    if margin is None or margin.shape != hard.shape or not number or base.requires_grad:
        return hard  # type: ignore[no-any-return]
    if not hard.is_floating_point():
        return marked(hard, Gate(margin))
    return marked(step(hard, margin, number).to(hard.dtype), Gate(margin, number))


def _ones(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.requires_grad and bool((value == 1).all())


def blended(func: Func, *args: Any, **kwargs: Any) -> Any:
    """Return a function of whole numbers and masks with the gradient of what they were made of."""
    if not any(isinstance(mark_of(arg), Gate | Whole) for arg in _tensors(args)):
        return func(*args, **kwargs)
    soft = func(*map(_softened, args), **kwargs)
    if soft.is_floating_point() and all(t.is_floating_point() for t in _tensors(args)):
        return soft
    return carried(func(*args, **kwargs), soft)


def _tensors(args: Any) -> list[Tensor]:
    flat = (part for arg in args for part in (arg if isinstance(arg, list | tuple) else (arg,)))
    return [part for part in flat if isinstance(part, Tensor)]


def _softened(arg: Any) -> Any:
    return type(arg)(map(soft_of, arg)) if isinstance(arg, list | tuple) else soft_of(arg)


def complement(func: Func, a: Any, b: Any, **kwargs: Any) -> Any:
    """Return a difference; 1 - mask is a mask again."""
    whole, mask = (b, a) if getattr(func, "__name__", "") in ("__rsub__", "rsub") else (a, b)
    found, mark = blended(func, a, b, **kwargs), mark_of(mask)
    if isinstance(mark, Gate) and isinstance(whole, int | float) and isinstance(found, Tensor):
        return marked(found, Gate(-mark.margin, mark.height))
    return found


def reshaped(func: Func, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Return another view of marked values, with a mark of the same view."""
    found, mark = func(x, *args, **kwargs), mark_of(x)
    if not isinstance(found, Tensor) or mark is None:
        return found
    if isinstance(mark, Gate):
        return marked(found, Gate(func(mark.margin, *args, **kwargs), mark.height))
    if isinstance(mark, Bent):
        both = (func(part, *args, **kwargs) for part in (mark.margin, mark.saturated.expand_as(mark.margin)))
        return marked(found, Bent(*both))
    if isinstance(mark, Whole):
        return marked(found, Whole(func(mark.soft, *args, **kwargs)))
    return marked(found, mark)

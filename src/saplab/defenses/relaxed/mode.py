"""The mode of PyTorch in which a network runs forward as it is, and backward through smooth stand-ins."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import Parameter, signature
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from saplab.defenses.relaxed import saturating as bend
from saplab.defenses.relaxed import stepwise as steps
from saplab.defenses.relaxed.marks import mark_of

Rule = Callable[..., Any]  # the function and its arguments -> its result


class Relaxed(TorchFunctionMode):
    """Inside, calls of saturating and stepwise functions get the gradients of `saplab.defenses.relaxed`.

    It sees modules, functions, methods and operators alike, but no function that another one calls below them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is None or not torch.is_grad_enabled() or not any(map(_concerned, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        given = _positional(rule, args, kwargs)
        return func(*args, **kwargs) if given is None else rule(func, *given[0], **given[1])


@contextmanager
def relaxing(wanted: bool) -> Iterator[None]:
    """Relax the gradients of what is called inside, in this thread, where it is wanted."""
    if not wanted:
        yield
        return
    with Relaxed():
        yield


_ALIASES: Final = {  # of a rule's arguments, in PyTorch's own signatures
    **dict.fromkeys(("x", "z", "a", "base", "gate"), ("input", "self")),
    **dict.fromkeys(("b", "other", "threshold", "bits"), ("other",)),
    "indices": ("index", "input", "tensor"), "mask": ("condition",), "value": ("src",),
}  # fmt: skip


def _positional(rule: Rule, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]] | None:
    """Return a call's arguments in the order of a rule's; None for a form of the function that the rule is not of."""
    values, named = list(args), dict(kwargs)
    for name in _names_of(rule)[len(args) :]:
        known = next((alias for alias in (name, *_ALIASES.get(name, ())) if alias in named), None)
        if known is None:
            break
        values.append(named.pop(known))
    try:
        signature(rule).bind(None, *values, **named)
    except TypeError:
        return None
    return values, named


@cache
def _names_of(rule: Rule) -> tuple[str, ...]:
    """Return a rule's arguments after the function, by name."""
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in signature(rule).parameters.values() if p.kind in positional)[1:]


def _concerned(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_concerned, value))
    return isinstance(value, Tensor) and (value.requires_grad or mark_of(value) is not None)


def _elementwise(bent: Callable[..., Tensor]) -> Rule:
    """Return the rule of a function of one tensor, which may be told to work in place."""

    def rule(func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        in_place = bool(kwargs.pop("inplace", args[0] if args else False))
        x = input.clone() if in_place else input
        found = bent(x, lambda: func(x))
        return input.copy_(found) if in_place else found

    return rule


def _along(bent: Callable[..., Tensor], sign: int = 1) -> Rule:
    """Return the rule of a softmax."""

    def rule(func: Any, input: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if dim is None:
            return func(input, dim, *args, **kwargs)  # type: ignore[no-any-return]
        return bent(sign * input, dim, lambda: func(input, dim, *args, **kwargs))

    return rule


def _clamped(func: Any, input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return bend.clamp(input, lambda: func(input, min, max), min, max)


def _hardtanh(func: Any, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    x = input.clone() if inplace else input
    found = bend.clamp(x, lambda: func(x, min_val, max_val), min_val, max_val)
    return input.copy_(found) if inplace else found


def _threshold(func: Any, input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    x = input.clone() if inplace else input
    found = steps.thresholded(x, threshold, value, lambda: func(x, threshold, value))
    return input.copy_(found) if inplace else found


def _hardshrink(func: Any, input: Tensor, lambd: float = 0.5) -> Tensor:
    return steps.shrunk(input, lambd, lambda: func(input, lambd))


def _cross_entropy(func: Any, input: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
    """Relax the cross-entropy of classes; `func` names all its other arguments."""
    unusual = any(kwargs.get(name) for name in ("size_average", "reduce", "label_smoothing"))
    if unusual or kwargs.get("weight") is not None or target.is_floating_point():
        return func(input, target, **kwargs)  # type: ignore[no-any-return]
    return bend.cross_entropy(input, target, kwargs.get("ignore_index", -100), kwargs.get("reduction", "mean"))


def _set(func: Any, x: Tensor, index: Any, value: Any) -> None:
    """Do x[mask] = number as `masked_fill` does."""
    if isinstance(index, Tensor) and isinstance(value, int | float) and index.dtype == torch.bool:
        mask = steps.reshaped(Tensor.view, index, *index.shape, *[1] * (x.dim() - index.dim()))
        x.copy_(steps.filled(Tensor.masked_fill, x.clone(), mask, value))
    else:
        func(x, index, value)


def _in_place(rule: Rule, plain: Any) -> Rule:
    """Return the rule of a function that writes into its first argument, from that of the one that does not."""

    def written(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x.copy_(rule(plain, x.clone(), *args, **kwargs))

    return written


_NAMED: Final[dict[str, Rule]] = {
    **dict.fromkeys(("sigmoid", "expit", "special_expit"), _elementwise(bend.sigmoid)),
    "tanh": _elementwise(bend.tanh),
    **dict.fromkeys(("erf", "special_erf"), _elementwise(bend.erf)),
    "hardsigmoid": _elementwise(bend.hardsigmoid),
    "relu6": _elementwise(bend.relu6),
    "hardswish": _elementwise(bend.hardswish),
    "hardtanh": _hardtanh,
    **dict.fromkeys(("clamp", "clip"), _clamped),
    **dict.fromkeys(("softmax", "special_softmax"), _along(bend.softmax)),
    "softmin": _along(bend.softmax, -1),
    **dict.fromkeys(("log_softmax", "special_log_softmax"), _along(bend.log_softmax)),
    "cross_entropy": _cross_entropy,
    **dict.fromkeys(("round", "floor", "ceil", "trunc", "fix"), steps.rounding),
    **dict.fromkeys(("floor_divide", "__floordiv__"), steps.divided),
    "div": steps.divided, "divide": steps.divided,
    **dict.fromkeys(("sign", "sgn"), steps.sign),
    "heaviside": steps.heaviside,
    "threshold": _threshold,
    "hardshrink": _hardshrink,
    **dict.fromkeys(("gt", "ge", "greater", "greater_equal", "__gt__", "__ge__"), steps.above),
    **dict.fromkeys(("lt", "le", "less", "less_equal", "__lt__", "__le__"), steps.below),
    **dict.fromkeys(("eq", "__eq__"), steps.equal),
    **dict.fromkeys(
        ("to", "type", "type_as", "float", "double", "half", "bfloat16", "long", "int", "short", "char", "byte",
         "bool"),
        steps.cast,
    ),
    **dict.fromkeys(("logical_not", "bitwise_not", "__invert__"), steps.turned),
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__", "__rand__"), steps.both),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__", "__ror__"), steps.either),
    **dict.fromkeys(("bitwise_right_shift", "__rshift__"), steps.shifted_right),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), steps.product),
    "where": steps.chosen,
    "masked_fill": steps.filled,
    "__setitem__": _set,
    **dict.fromkeys(("argmax", "max"), steps.largest),
    **dict.fromkeys(("argmin", "min"), steps.smallest),
    "topk": steps.topk,
    "one_hot": steps.one_hot,
    "scatter": steps.scattered,
    **dict.fromkeys(("sub", "subtract", "rsub", "__sub__", "__rsub__"), steps.complement),
    **dict.fromkeys(
        ("add", "__add__", "__radd__", "true_divide", "__truediv__", "neg", "__neg__", "sum", "mean", "cumsum",
         "matmul", "__matmul__", "cat", "stack", "concat", "pow"),
        steps.blended,
    ),
    **dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "permute", "transpose", "movedim",
         "contiguous", "clone", "__getitem__", "repeat", "repeat_interleave", "swapaxes", "t"),
        steps.reshaped,
    ),
}  # fmt: skip

_OWNERS: Final = (torch, F, Tensor, torch.special)
_WRITTEN: Final = ("sigmoid", "tanh", "clamp", "clip", "round", "floor", "ceil", "trunc", "sign", "masked_fill", "mul",
                   "scatter", "erf")  # fmt: skip
_RULES: Final[dict[Any, Rule]] = {
    **{getattr(owner, name): rule for name, rule in _NAMED.items() for owner in _OWNERS if hasattr(owner, name)},
    **{
        getattr(owner, f"{name}_"): _in_place(_NAMED[name], getattr(Tensor, name))
        for name in _WRITTEN for owner in (torch, Tensor) if hasattr(owner, f"{name}_")
    },
}  # fmt: skip

"""Activation sites: the output of every activation function that a forward pass calls, in the order of the calls.

The module in which a call happens gives the site its name; a module that is called twice is two sites.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isfunction, signature
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from saplab.defenses.computed import is_weight_hook

_NAMES: Final = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "hardtanh",
    "hardsigmoid", "softplus", "softsign", "prelu", "rrelu", "logsigmoid", "threshold", "hardshrink", "softshrink",
    "tanhshrink", "sigmoid", "tanh",
)  # fmt: skip


def _functions(names: Sequence[str]) -> dict[Any, str]:
    return {getattr(owner, n): n for n in names for owner in (F, torch, Tensor) if hasattr(owner, n)}


_OUT_OF_PLACE: Final = {**_functions(_NAMES), torch.special.expit: "sigmoid"}
_IN_PLACE: Final = {call: name[:-1] for call, name in _functions([f"{name}_" for name in _NAMES]).items()}
_CLAMPS: Final = _functions(("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_"))  # rectifiers when min=0
_INPLACE_POSITION: Final = {
    call: list(signature(call).parameters).index("inplace")
    for call in _OUT_OF_PLACE
    if isfunction(call) and "inplace" in signature(call).parameters
}
RECTIFIERS: Final = (F.relu, torch.relu, Tensor.relu)


def classify(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[str, bool] | None:
    """Return (activation function, whether it writes into its input), or None for any other function."""
    if func in _OUT_OF_PLACE:
        position = _INPLACE_POSITION.get(func, len(args))
        return _OUT_OF_PLACE[func], bool(kwargs.get("inplace", args[position] if position < len(args) else False))
    if func in _IN_PLACE:
        return _IN_PLACE[func], True
    if func in _CLAMPS:
        low = kwargs.get("min", args[1] if len(args) > 1 else None)
        high = kwargs.get("max", args[2] if len(args) > 2 else None)
        if isinstance(low, int | float) and low == 0:
            return ("relu" if high is None else "clamp"), _CLAMPS[func].endswith("_")
    return None


class ModulePath(threading.local):
    """The modules that the running forward pass is in, innermost last."""

    def __init__(self) -> None:
        self.stack: list[tuple[str, nn.Module]] = []


module_path: Final = ModulePath()


def _enter(name: str, module: nn.Module, args: Any) -> None:
    module_path.stack.append((name, module))


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    module_path.stack.pop()


def announce_modules(model: nn.Module) -> None:
    """Let each submodule of `model` say when a forward pass enters and leaves it, so that sites have names."""
    for name, module in model.named_modules():
        if name:
            module.register_forward_pre_hook(partial(_enter, name))
            module.register_forward_hook(_leave, always_call=True)


def is_announcement(hook: Any) -> bool:
    """Return whether a forward hook is one of `announce_modules` or of `announce_weights`."""
    return hook is _leave or (isinstance(hook, partial) and hook.func is _enter) or is_weight_hook(hook)


def in_parametrization() -> bool:
    """Return whether a weight is being computed, whose functions are no activation functions."""
    return any(isinstance(module, ParametrizationList) for _, module in module_path.stack)


def path_of(function: str) -> str:
    """Return the name of the site of an activation function that is called now, but for its number."""
    if not module_path.stack:
        return function
    name, module = module_path.stack[-1]
    own_forward = type(module).__module__ == "torch.nn.modules.activation"
    return name if own_forward else f"{name}.{function}"


@dataclass(frozen=True)
class Site:
    """A place where an activation function's output appears.

    Attributes:
        index: number of the call within a pass, from 0.
        name: path of the module in which the call happens; "#2" marks a name's second call.
        function: the activation function.
        shape: of one example's map.
        activations: its size a.
        draws: categorical draws of each pass at this site; 0 without a pruning defence.
    """

    index: int
    name: str
    function: str
    shape: tuple[int, ...]
    activations: int
    draws: int


class SiteTable(tuple[Site, ...]):
    """The sites of a network, in the order of their calls; prints as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        rows = [("#", "site", "function", "shape", "activations", "draws")]
        for s in self:
            shape = "×".join(map(str, s.shape))
            rows.append((str(s.index), s.name, s.function, shape, f"{s.activations:,}", f"{s.draws:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = (str.rjust, str.ljust, str.ljust, str.rjust, str.rjust, str.rjust)
        lines = ("  ".join(a(t, w) for a, t, w in zip(aligned, row, widths, strict=True)) for row in rows)
        return "\n".join(map(str.rstrip, lines))

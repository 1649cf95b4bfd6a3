"""Activations that a network computes without calling an activation function, so that no defence acts on them.

A network is run once, and each function is looked at that gets something computed from the image: rectifiers written by
hand (`where`, `maximum`, a product with a comparison), gated and recurrent layers, whose activations lie inside one
operation, and functions of somebody's own below autograd, whose inside the gradient does not know.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from saplab.defenses.sites import classify, in_parametrization, module_path

_FUSED: Final = frozenset({"glu", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell",
                           "rnn_relu_cell", "sin", "sign", "erf", "heaviside"})  # fmt: skip
_BOUNDS: Final = frozenset({"clamp", "clamp_", "clamp_min", "clamp_max", "clip", "clip_", "maximum", "minimum", "fmax",
                            "fmin"})  # fmt: skip
_COMPARES: Final = frozenset({"gt", "ge", "lt", "le", "__gt__", "__ge__", "__lt__", "__le__", "greater", "less"})
_CHOOSES: Final = frozenset({"where", "masked_fill", "masked_fill_", "__setitem__"})
_PRODUCTS: Final = frozenset({"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"})
_MASKS_STAY: Final = frozenset({"float", "double", "half", "bfloat16", "int", "long", "to", "type", "type_as",
                                "__invert__", "logical_not", "__and__", "__or__", "logical_and",
                                "logical_or"})  # fmt: skip
_FRESH: Final = ("_like", "new_", "rand", "zeros", "ones", "empty", "full")
_SHOWN: Final = 5
_TINY: Final = 1e-3


class Unseen(TorchFunctionMode):
    """Inside, calls are noted that compute activations of the image without an activation function.

    Attributes:
        found: what was called, and in which module, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}
        self._images = _Marked()  # tensors that were computed from the image
        self._masks = _Marked()  # those that say where something computed from the image is larger

    def watched(self, image: Tensor) -> Tensor:
        """Return the image, whose way through the network is followed from here on."""
        self._images.add([image])
        return image

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [args[0]] if name == "__setitem__" else [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not any(t in self._images for t in given) or in_parametrization() or any(word in name for word in _FRESH):
            return result
        masked = any(t in self._masks for t in given)
        if name in _COMPARES or (masked and name in _MASKS_STAY):
            self._masks.add(made)
        elif classify(func, args, kwargs) is None and (name in _FUSED or _bounds(name, args, kwargs) or (
            masked and name in _CHOOSES | _PRODUCTS
        )):  # fmt: skip
            self._note(name)
        self._images.add(made)
        return result

    def _note(self, name: str) -> None:
        path = module_path.stack[-1][0] if module_path.stack else ""
        word = "x[…] = …" if name == "__setitem__" else name.strip("_")
        self.found.setdefault(f"{word} in {path}" if path else word)


class _Marked:
    """A set of tensors by identity, which live as long as it does."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._held: dict[int, Tensor] = {}
        self.add(tensors)

    def add(self, tensors: Iterable[Tensor]) -> None:
        self._held |= {id(tensor): tensor for tensor in tensors}

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._held


def _bounds(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether a call takes the larger or smaller of an activation and something else."""
    if name in ("max", "min"):
        return any(isinstance(other, Tensor) for other in (*args[1:], *kwargs.values()))
    low, high = (kwargs.get(key, args[k] if len(args) > k else None) for k, key in ((1, "min"), (2, "max")))
    guards = isinstance(low, float) and 0 < low < _TINY and high is None  # against a division by zero
    return name in _BOUNDS and not guards


def handwritten(outputs: Iterable[Tensor], image: Tensor) -> list[str]:
    """Return the names of somebody's own autograd functions of the image (N, ...) that keep shapes."""
    parents: dict[Any, list[Any]] = {}
    todo = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while todo:
        node = todo.pop()
        if node not in parents:
            parents[node] = []
        for before, _ in node.next_functions:
            if before is None:
                continue
            if before not in parents:
                todo.append(before)
                parents[before] = []
            parents[before].append(node)
    start = [node for node in parents if getattr(node, "variable", None) is image]
    found: dict[str, None] = {}
    for node in _reached(start, parents):
        if isinstance(node, BackwardCFunction) and _keeps_shape(node):
            made = node._forward_cls  # type: ignore[attr-defined]
            if not made.__module__.startswith(("torch.", "saplab.")):
                found.setdefault(made.__name__)
    return list(found)


def _reached(start: list[Any], edges: dict[Any, list[Any]]) -> Iterator[Any]:
    seen, todo = set(start), list(start)
    while todo:
        node = todo.pop()
        yield node
        for after in edges[node]:
            if after not in seen:
                seen.add(after)
                todo.append(after)


def _keeps_shape(node: Any) -> bool:
    shapes = [tuple(made.shape) for made in node._input_metadata]
    inputs = [tuple(before._input_metadata[k].shape) for before, k in node.next_functions if before is not None]
    return bool(shapes) and shapes[0] in inputs


def unseen_notes(calls: Iterable[str], functions: Iterable[str]) -> tuple[str, ...]:
    """Return what should be said of activations on which no defence acts, in sentences."""
    calls, functions = list(calls), list(functions)
    told = []
    if calls:
        told.append(f"Not defended, since these are no calls of activation functions: {_listed(calls)}.")
    if functions:
        told.append(f"Autograd functions of its own hide activations from defences, or defences from the gradient:"
                    f" {_listed(functions)}.")  # fmt: skip
    return tuple(told)


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

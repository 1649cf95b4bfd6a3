"""What a value holds, as text: the same in every process, for values that are equal."""

import enum
import hashlib
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from saplab.system.digest import tensors_digest

_ATOMS: Final = (str, bytes, bool, int, float, complex, type(None), type(...), torch.dtype, torch.device, slice, range)
_TORCH_VALUES: Final = (torch.nn.Module, torch.distributions.Distribution, torch.distributions.Transform)
_GENERATORS: Final = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


class Contents:
    """Turns values into text by what they hold: no addresses, no order of a set or of a plain dict.

    An `OrderedDict`, for which Python too says that order counts, keeps it. Generators of random numbers and objects of
    PyTorch's and Python's own that are no values (locks, files) are known by their class alone.

    Args:
        called: returns the text of a function, method or other callable; what it captures, it may ask of `text`.
        source: returns the text of a class: what its source is.
    """

    def __init__(self, called: Callable[[Any, "Contents"], str], source: Callable[[type], str]) -> None:
        self._called, self._source = called, source
        self._known: dict[int, tuple[str, Any]] = {}  # with the objects, whose numbers so stay theirs

    def text(self, value: Any) -> str:
        """Return a value's text."""
        if isinstance(value, _ATOMS) and not isinstance(value, enum.Enum):
            return f"{type(value).__name__} {value!r}"
        if id(value) not in self._known:
            self._known[id(value)] = ("itself", value)  # where it is met inside itself
            self._known[id(value)] = (_hash(self._whole(value)), value)
        return self._known[id(value)][0]

    def _whole(self, value: Any) -> str:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, enum.Enum):
            return f"{kind} {value.name}"
        if isinstance(value, Tensor):
            if value.is_quantized:
                return f"{value.dtype} {self.text(value.dequantize())}"
            return tensors_digest({"": value.detach().to_dense() if value.layout != torch.strided else value})
        if isinstance(value, torch.ScriptObject):  # such as the packed weights of a quantised layer
            return f"{kind} {self._scripted(value)}"
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value))
        if isinstance(value, _GENERATORS):
            return kind
        if isinstance(value, ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, type):
            return f"class {value.__module__}.{value.__qualname__} {self._source(value)}"
        return f"{kind} {self._container(value)}"

    def _container(self, value: Any) -> str:
        if isinstance(value, Mapping):
            pairs = [f"{self.text(key)}: {self.text(inner)}" for key, inner in list(value.items())]
            return repr(pairs if isinstance(value, OrderedDict) else sorted(pairs)) + self._own(value)
        if isinstance(value, Set):
            return repr(sorted(map(self.text, list(value))))
        if isinstance(value, Sequence | deque):
            return repr(list(map(self.text, list(value)))) + self._own(value)
        if isinstance(value, partial) or hasattr(value, "__qualname__") or hasattr(value, "__func__"):
            return self._called(value, self)
        return f"{self._source(type(value))} {getattr(value, '__name__', '')} {self._own(value)}"

    def _scripted(self, value: Any) -> str:
        try:
            return self.text(value.__getstate__())
        except (RuntimeError, AttributeError):  # it cannot be saved
            return ""

    def _own(self, value: Any) -> str:
        """Return the fields of an object, whether it keeps them in a dict or in slots."""
        if type(value).__module__.partition(".")[0] == "torch" and not isinstance(value, _TORCH_VALUES):
            return ""
        slots = [name for base in type(value).__mro__ for name in _names(vars(base).get("__slots__", ()))]
        fields = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        fields |= dict(getattr(value, "__dict__", {}))
        return repr(sorted((str(name), self.text(inner)) for name, inner in fields.items() if name[:2] != "__"))

    def _array(self, value: np.ndarray[Any, Any]) -> str:
        bits = self.text(value.tolist()) if value.dtype.hasobject else _hash(np.ascontiguousarray(value).tobytes())
        return f"array {value.dtype.str} {value.shape} {bits}"


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode(errors="replace")).hexdigest()

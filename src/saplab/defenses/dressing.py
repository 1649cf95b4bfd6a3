"""Dress a network: give a view of it a class that adds a part before the network's own, so that its keys, attributes
and `isinstance` stay as they were.

A view is a copy of the tree of modules that shares every parameter and buffer.
"""

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import torch
from torch import nn

from saplab.defenses.drawing import Drawing, GradientRule, current, fresh
from saplab.defenses.histories import with_history
from saplab.rng.streams import derived_key

_counting: Final = threading.Lock()


class Dress(nn.Module):
    """A part added before a network's own class, each of whose direct calls is one fresh pass.

    Its names begin with ``_saplab``, so that they never meet those of a network.
    """

    _saplab_key: int
    _saplab_pass: int
    _saplab_fixed: bool
    _saplab_rule: GradientRule
    _saplab_forward: Callable[..., Any] | None = None  # one that was set on the network's instance

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network's own forward pass: the last that the parts before it call."""
        own = self._saplab_forward
        return super().forward(*args, **kwargs) if own is None else own(*args, **kwargs)

    @property
    def _saplab_random(self) -> bool:
        """Return whether it makes passes differ."""
        return False

    @property
    def _saplab_shares(self) -> bool:
        """Return whether one draw serves a whole pass, so that a batch must be one pass."""
        return False

    @property
    def _saplab_label(self) -> str:
        """Return what stands before the network, for messages; "" where that is nothing."""
        return ""

    def _saplab_drawing(self) -> Drawing:
        """Return the draws that an enclosing `drawing` fixes, else fresh ones."""
        return current() or self._saplab_fresh()

    def _saplab_fresh(self) -> Drawing:
        if self._saplab_fixed:
            raise ValueError("a DataParallel replica cannot tell which of the fixed draws are its examples'; predict"
                             " and attack with the network inside DataParallel")  # fmt: skip
        key = self._saplab_key
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            key = derived_key(key, torch.distributed.get_rank())
        return fresh(key, self._saplab_next_pass(), self._saplab_rule)

    def _saplab_next_pass(self) -> int:
        with _counting:
            pass_ = self._saplab_pass
            self.__dict__["_saplab_pass"] = pass_ + 1  # without the search of nn.Module.__setattr__
        return pass_

    def _replicate_for_data_parallel(self) -> Any:
        """Return the replica, which lives for one pass, with draws of its own."""
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._saplab_key = derived_key(self._saplab_key, -1 - self._saplab_next_pass())
        replica._saplab_fixed = current() is not None
        return replica

    def __reduce_ex__(self, protocol: Any) -> Any:
        if _found_by_name(undressed_class(self)):
            return _blank, type(self).__bases__, self.__dict__
        own = {name: value for name, value in vars(self).items() if name.startswith("_saplab")}
        parts = [kind.__bases__[0] for kind in type(self).__mro__ if kind in _classes.values()]
        return _dressed_again, (tuple(parts), stripped(self)), own

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy as modules are copied, also where the network's class has a way of its own (torch.fx)."""
        memo[id(self)] = made = _blank(*type(self).__bases__)
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


D = TypeVar("D", bound=Dress)

FIELDS: Final = ("_saplab_key", "_saplab_rule", "_saplab_pass", "_saplab_fixed")  # of every dress

_classes: Final[dict[tuple[type[Dress], type[nn.Module]], type[Dress]]] = {}


def dressed(model: nn.Module, part: type[D], key: int, rule: GradientRule = "mask") -> D:
    """Return a view of the model whose class has `part` before the model's own; the part's own fields are not set.

    Raises:
        ValueError: a model with a `__call__` of its own, or a part that cannot be copied.
    """
    _refuse_own_call(model)
    found: Any = view(model)
    found.__class__ = _dressed_class(part, type(model))
    found._saplab_key, found._saplab_rule = key, rule
    found._saplab_pass, found._saplab_fixed = 0, False
    if "forward" in vars(found):
        found._saplab_forward = vars(found).pop("forward")
    return found  # type: ignore[no-any-return]


def _refuse_own_call(model: nn.Module) -> None:
    """Refuse a `__call__` of the network's own: a part before its class would not see it."""
    caller = next(kind for kind in undressed_class(model).__mro__ if "__call__" in vars(kind))
    if not caller.__module__.startswith("torch."):
        raise ValueError(f"{undressed_class(model).__name__} has a `__call__` of its own, which passes by its forward:"
                         " name it `forward`")  # fmt: skip


def _dressed_class(part: type[Dress], base: type[nn.Module]) -> type[Dress]:
    if (part, base) not in _classes:
        own = {"__module__": base.__module__, "__doc__": base.__doc__}
        _classes[part, base] = type(f"{part.__name__}{base.__name__}", (part, base), own)
    return _classes[part, base]


def _blank(part: type[Dress], base: type[nn.Module]) -> Dress:
    """Make the empty shell that unpickling and copying fill."""
    kind = _dressed_class(part, base)
    return object.__new__(kind)  # a graph of torch.fx would make a class of its own


def _found_by_name(kind: type) -> bool:
    """Return whether a class is where pickle looks for it, as the one that torch.fx makes for each graph is not."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _dressed_again(parts: tuple[type[Dress], ...], model: nn.Module) -> nn.Module:
    """Return a network that has pickled itself with its dresses, the outermost first, but not with their fields."""
    kind = type(model)
    for part in reversed(parts):
        kind = _dressed_class(part, kind)
    model.__class__ = kind
    return model


def undressed_class(model: nn.Module, part: type[Dress] | None = None) -> type[nn.Module]:
    """Return the class below the outermost dress, or below all dresses where no `part` is named."""
    kind = type(model)
    while kind in _classes.values() and (part is None or issubclass(kind.__bases__[0], part)):
        kind = kind.__bases__[1]
    return kind


def undress(model: nn.Module, part: type[Dress], *fields: str) -> None:
    """Take the outermost dress, which is `part`, off a module, with the fields of its own."""
    kept = undressed_class(model, part)
    for name in (*fields, *(() if issubclass(kept, Dress) else FIELDS)):
        delattr(model, name)
    if not issubclass(kept, Dress) and (own := vars(model).pop("_saplab_forward", None)) is not None:
        model.forward = own
    model.__class__ = kept


def stripped(model: nn.Module) -> nn.Module:
    """Return a view of a network of its own class, without any dress; the network itself where it has none."""
    if not isinstance(model, Dress):
        return model
    bare = view(model)
    for name in [name for name in vars(bare) if name.startswith("_saplab") and name != "_saplab_forward"]:
        delattr(bare, name)
    if (own := vars(bare).pop("_saplab_forward", None)) is not None:
        bare.forward = own
    bare.__class__ = undressed_class(model)
    return bare


def dresses(model: nn.Module) -> Iterator[Dress]:
    """Yield the dressed modules of a network."""
    return (module for module in model.modules() if isinstance(module, Dress))


def view(model: nn.Module) -> nn.Module:
    """Copy the tree of modules, and share every parameter, buffer and tensor with a history.

    Raises:
        ValueError: a part of it cannot be copied, such as a scripted function.
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers(), *with_history(model))}
    try:
        return copy.deepcopy(model, dict(shared))
    except Exception as error:  # whatever the user's objects raise
        raise ValueError(f"{_uncopied(model, shared)} cannot be copied: {type(error).__name__}: {error}") from error


def _uncopied(model: nn.Module, shared: Mapping[int, Any]) -> str:
    """Name the attribute of a network that cannot be copied, with the module that holds it."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            try:
                copy.deepcopy(value, dict(shared)) if attribute != "_modules" else None
            except Exception:
                return f"the attribute {attribute!r} of {f'the part {name!r} of ' if name else ''}the network"
    return "a part of the network"

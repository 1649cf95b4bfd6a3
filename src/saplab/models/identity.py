"""Who a network is: digests of its weights, and of all that decides its numbers."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from enum import Enum
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn

from saplab.system.digest import tensors_digest
from saplab.system.source import contents_text, data_of, is_users, source_digest

SPEC: Final = "saplab_spec"  # attribute of a loaded network: the name that it was loaded by
NAMES: Final = "saplab_classes"  # likewise: the names of its classes, where the facts beside its weights say them
TAKEN: Final = "saplab_weights"  # likewise: where in a file its weights were found, where that is not at the top
_HOOKS: Final = (  # of a module's own fields, those that change its numbers or its gradient
    "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks",
)  # fmt: skip
_MANGLED: Final = re.compile(r"___torch_mangle_\d+\.")  # in names of what was loaded before
_WHOLE: Final[tuple[Any, ...]] = (
    nn.Module,
    Tensor,
    type,
    Enum,
    Mapping,
    Sequence,
    Set,
    Callable,
)  # whose fields are no parts
_DEEP: Final = 3  # levels of parts at most; what is deeper, or has more than so many parts, counts as a whole
_MANY: Final = 64
_OTHERS: Final = frozenset({SPEC, TAKEN, NAMES, *vars(nn.Module())} - {*_HOOKS, "training"})


def weights_digest(module: nn.Module, left_out: Collection[str] = ()) -> str:
    """Return the SHA-256, in hexadecimal, of every parameter and buffer: name, type, shape and bits."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return tensors_digest({name: tensor for name, tensor in tensors.items() if name not in left_out})


def network_digest(model: nn.Module, left_out: Collection[str] = ()) -> str:
    """Return the SHA-256, in hexadecimal, of all that decides a network's numbers.

    That is its weights, the classes of its modules and the source of those of the user's, and all that its
    attributes hold: numbers, tensors that are no buffers, arrays, containers, objects, hooks, and functions with what
    they capture; and the values that code of the user's reads from its own module. The states of generators decide
    nothing, as their draws are keyed.

    Args:
        model: a network without saplab's defences.
        left_out: names of attributes, of parts of them (``state['calls']``) and of buffers that a pass writes, such as
            its last output: those that the rehearsal found to hold other values after passes over other images. A
            network that was called is so the same one as before, and a value that no pass changes counts.
    """
    parts = [weights_digest(model, left_out)]
    for name, module in model.named_modules():
        kind = type(module)
        source = "" if kind.__module__.startswith("torch.") else source_digest(kind)
        parts.append(f"{name} {kind.__module__}.{kind.__qualname__} {source}")
    held = attributes(model).items()
    parts += [f"{name} {text}" for name, text in sorted(held) if not is_part(name, left_out)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def attributes(model: nn.Module) -> Mapping[str, str]:
    """Return a text of what each attribute of a network's modules holds, but for parameters, buffers and modules."""
    return {name: contents_text(value) for name, value in values(model)}


def values(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what `attributes` tells of, by name; containers and objects in parts, each under a name of its own."""
    kinds: dict[type, None] = {}
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch._dynamo"):  # what was compiled is in the module inside
            continue
        kinds[type(module)] = None
        if isinstance(module, torch.jit.ScriptModule):
            yield _joined(name, "code"), _scripted(module)
            continue
        for key, value in list(vars(module).items()):
            if key in _HOOKS and value:
                yield _joined(name, key), list(value.values())
            elif key not in _HOOKS and key not in _OTHERS and _counts(module, key):
                yield from _parts(_joined(name, key), value)
    for kind in kinds:
        if is_users(kind):
            yield f"code of {kind.__qualname__}", source_digest(kind)
        for name, value in data_of(kind):
            yield from _parts(f"read by {kind.__qualname__}: {name}", value)


def _scripted(module: torch.jit.ScriptModule) -> list[Any]:
    """Return the code of a TorchScript module and the tensors in it; its constants are in the code."""
    try:
        code, constants = module.code_with_constants
    except RuntimeError:  # a module without a `forward`
        return []
    return [_MANGLED.sub("", code), dict(constants.const_mapping)]


def is_part(name: str, of: Collection[str]) -> bool:
    """Return whether a name that `values` yields is one of some names, or belongs to a part of one."""
    return name in of or any(name.startswith((f"{whole}[", f"{whole}.")) for whole in of)


def _parts(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield a value, or what it is made of: first which parts there are, then each of them."""
    if depth == _DEEP or not (inner := _inside(value)):
        yield name, value
        return
    yield name, f"{contents_text(type(value))} {sorted(inner)}"
    for part, held in inner.items():
        yield from _parts(name + part, held, depth + 1)


def _inside(value: Any) -> Mapping[str, Any]:
    """Return the parts of a dict, a list or an object with fields, each under how code would name it; {} of others."""
    if type(value) is dict:
        found = {f"[{key!r}]": inner for key, inner in list(value.items()) if isinstance(key, str | int)}
        return found if len(found) == len(value) <= _MANY else {}
    if type(value) is list:
        return {f"[{k}]": inner for k, inner in enumerate(value)} if len(value) <= _MANY else {}
    if isinstance(value, _WHOLE) or not (type(value) is SimpleNamespace or is_users(type(value))):
        return {}
    return {f".{key}": inner for key, inner in list(vars(value).items())} if _has_fields_alone(value) else {}


def _has_fields_alone(value: Any) -> bool:
    return hasattr(value, "__dict__") and not any(vars(base).get("__slots__") for base in type(value).__mro__)


def held(model: nn.Module) -> Mapping[str, str]:
    """Return a text of what a network holds besides its parameters: `attributes` and buffers."""
    return {**attributes(model), **{name: contents_text(buffer) for name, buffer in model.named_buffers()}}


def _joined(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


def _counts(module: nn.Module, key: str) -> bool:
    return not (key.startswith("_saplab") or isinstance(getattr(type(module), key, None), cached_property))

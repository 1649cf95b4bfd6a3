"""Who a network is: digests of its weights, and of all that decides its numbers."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from torch import nn

from saplab.system.digest import tensors_digest
from saplab.system.source import contents_text, source_digest

SPEC: Final = "saplab_spec"  # attribute of a loaded network: the name that it was loaded by
TAKEN: Final = "saplab_weights"  # likewise: where in a file its weights were found, where that is not at the top
_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks")  # of a module's own fields, those that change its numbers
_OTHERS: Final = frozenset({SPEC, TAKEN, *vars(nn.Module())} - {*_HOOKS, "training"})


def weights_digest(module: nn.Module, left_out: Collection[str] = ()) -> str:
    """Return the SHA-256, in hexadecimal, of every parameter and buffer: name, type, shape and bits."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return tensors_digest({name: tensor for name, tensor in tensors.items() if name not in left_out})


def network_digest(model: nn.Module, left_out: Collection[str] = ()) -> str:
    """Return the SHA-256, in hexadecimal, of all that decides a network's numbers.

    That is its weights, the classes of its modules and the source of those of the user's, and all that its
    attributes hold: numbers, tensors that are no buffers, arrays, containers, objects, hooks, and functions with what
    they capture. The states of generators decide nothing, as their draws are keyed.

    Args:
        model: a network without saplab's defences.
        left_out: names of attributes and buffers that a pass writes, such as its last output: those that the rehearsal
            found to hold other values after passes over other images. A network that was called is so the same one as
            before, and a value that no pass changes counts.
    """
    parts = [weights_digest(model, left_out)]
    for name, module in model.named_modules():
        kind = type(module)
        source = "" if kind.__module__.startswith("torch.") else source_digest(kind)
        parts.append(f"{name} {kind.__module__}.{kind.__qualname__} {source}")
    held = attributes(model).items()
    parts += [f"{name} {text}" for name, text in sorted(held) if name not in left_out]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def attributes(model: nn.Module) -> Mapping[str, str]:
    """Return a text of what each attribute of a network's modules holds, but for parameters, buffers and modules."""
    return {name: contents_text(value) for name, value in values(model)}


def values(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that `attributes` tells of, by name."""
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch._dynamo"):  # what was compiled is in the module inside
            continue
        for key, value in list(vars(module).items()):
            if key not in _OTHERS and _counts(module, key, value):
                whole = f"{name}.{key}" if name else key
                yield whole, list(value.values()) if key in _HOOKS else value


def held(model: nn.Module) -> Mapping[str, str]:
    """Return a text of what a network holds besides its parameters: `attributes` and buffers."""
    return {**attributes(model), **{name: contents_text(buffer) for name, buffer in model.named_buffers()}}


def _counts(module: nn.Module, key: str, value: Any) -> bool:
    if key in _HOOKS:
        return bool(value)
    return not (key.startswith("_saplab") or isinstance(getattr(type(module), key, None), cached_property))

"""Find in a file of weights what belongs to a network, and put it there, completely or not at all."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from saplab.models.weights_file import State, is_counter, rank_of

Tensors = Mapping[str, Any]
Reader = Callable[[Tensors], Tensors | None]  # from a file's names to a network's; None where it cannot

_LISTED: Final = 3
_COMPILED: Final = "_orig_mod."
_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class _Attempt:
    """A state_dict of a file by a network's names, as far as it goes.

    Attributes:
        where, prefix: what lies around the state_dict in the file, and stands before each name.
        left: names that do not stand behind the prefix.
    """

    where: str
    prefix: str
    tensors: Tensors
    missing: Sequence[str]
    unexpected: Sequence[str]
    left: Sequence[str]

    @property
    def fits(self) -> bool:
        return not self.missing and not self.unexpected

    @property
    def rank(self) -> int:
        return rank_of(self.where, self.prefix)

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.where, self.prefix.removesuffix(".")))) or "the file's top level"


def put_weights(model: nn.Module, state: Tensors, source: str) -> None:
    """Copy a state_dict into a network as `fit` does."""
    fit(model, [State("", state)], source)


def fit(model: nn.Module, states: Sequence[State], source: str, reader: Reader | None = None) -> str:
    """Copy those weights of a file into a network that fit it, completely or not at all.

    They may lie in any wrapper and behind any prefix; what only counts may be missing or too much. Names of older
    versions are read as the network itself reads them, then by `reader`.

    Returns:
        Where in the file the weights were found, and what was passed over; "" for a plain state_dict.

    Raises:
        ValueError: no weights of the file fit the network, or several do; the message begins with `source`.
    """
    attempts = [attempt for state in states for attempt in _attempts(model, state, reader)]
    fitting = sorted((attempt for attempt in attempts if attempt.fits), key=lambda attempt: attempt.rank)
    if not fitting:
        raise ValueError(f"{source} {_lacking(attempts)}")
    chosen, *others = fitting
    if any(other.rank == chosen.rank and not _same(other.tensors, chosen.tensors) for other in others):
        names = ", ".join(attempt.name for attempt in fitting if attempt.rank == chosen.rank)
        raise ValueError(f"{source} holds several networks that fit: {names}; save the one that is meant alone")
    own = model.state_dict()
    for name, value in own.items():
        if isinstance(value, Tensor) and name in chosen.tensors:
            _check(f"{source}: {name}", chosen.tensors[name], value)
    _load(model, _versioned(chosen.tensors, own), source)
    return _words(chosen, others, source)


def unwrapped(names: Sequence[str], own: Sequence[str] = ()) -> str:
    """Return the prefix, of one part or several, that stands before every name and is not the network's own."""
    prefix, inner = "", [name for name in names if not is_counter(name)]
    while inner and not any(name in own for name in inner):
        first = inner[0].partition(".")[0] + "."
        if not all(name.startswith(first) and name != first for name in inner):
            break
        if own and all(name.startswith(first) for name in own):
            break
        prefix, inner = prefix + first, [name.removeprefix(first) for name in inner]
    return prefix


def _attempts(model: nn.Module, state: State, reader: Reader | None) -> Iterator[_Attempt]:
    """Yield the ways in which a state_dict may be meant."""
    own = model.state_dict()
    named = {name: value for name, value in state.tensors.items() if isinstance(name, str)}
    plain = {name if name in own else name.replace(_COMPILED, ""): value for name, value in named.items()}
    given = {name: value for name, value in plain.items() if isinstance(value, Tensor) or name in own}
    for prefix in _prefixes(own, given) or [unwrapped([*given], [*own])]:
        left = [name for name in given if not name.startswith(prefix) and not is_counter(name)]
        inside = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        versions = _unprefixed(getattr(state.tensors, "_metadata", None), prefix)
        yield _renamed(model, own, _Attempt(state.where, prefix, _with(inside, versions), (), (), left), reader)


def _prefixes(own: Tensors, given: Tensors) -> list[str]:
    """Return the prefixes behind each of which all the network's names stand."""
    wanted = [name for name in own if not is_counter(name)]
    longest = max(wanted, key=len, default="")
    ends = (name.removesuffix(longest) for name in given if name.endswith(longest))
    return [end for end in ends if end[-1:] in ("", ".") and all(end + name in given for name in wanted)]


def _renamed(model: nn.Module, own: Tensors, attempt: _Attempt, reader: Reader | None) -> _Attempt:
    """Compare names; where they differ, as the network or else the reader renames them."""
    readers = (lambda tensors: tensors, lambda tensors: _as_the_network_reads(model, tensors), reader)
    for read in filter(None, readers):
        if (tensors := read(attempt.tensors)) is None:
            continue
        missing = sorted(name for name in own if name not in tensors and not is_counter(name))
        unexpected = sorted(name for name in tensors if name not in own and not is_counter(name))
        found = _Attempt(attempt.where, attempt.prefix, tensors, missing, unexpected, attempt.left)
        if found.fits:
            return found
        attempt = attempt if attempt.missing or attempt.unexpected else found
    return attempt


def _as_the_network_reads(model: nn.Module, tensors: Tensors) -> Tensors | None:
    """Return what a copy of the network without numbers makes of tensors, old names become new ones."""
    try:
        empty = {id(t): t.detach().to("meta").requires_grad_(t.requires_grad) for t in model.buffers()}
        empty |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
        shell = copy.deepcopy(model, empty)
        missing, unexpected = shell.load_state_dict(_versioned(tensors, {}), strict=False, assign=True)
    except Exception:  # other shapes, or a network of the user's that cannot be copied: names are compared as they are
        return None
    found = {name: value for name, value in shell.state_dict().items() if name not in missing}
    return found | {name: tensors[name] for name in unexpected}


def _lacking(attempts: Sequence[_Attempt]) -> str:
    best = min(attempts, key=lambda attempt: (len(attempt.missing), len(attempt.unexpected)))
    parts = (("lacks", best.missing), ("has unexpected", best.unexpected))
    return " and ".join(f"{verb} {_some(names)}" for verb, names in parts if names)


def _same(one: Tensors, other: Tensors) -> bool:
    weights = {name: tensor for name, tensor in one.items() if not is_counter(name)}
    return all(
        isinstance(t, Tensor) and isinstance(o := other.get(n), Tensor) and t.shape == o.shape and torch.equal(t, o)
        for n, t in weights.items()
    )


def _check(name: str, tensor: Any, own: Tensor) -> None:
    """Refuse a tensor that cannot take the place of the network's own, exactly or rounded."""
    if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {_kind(tensor)}")
    if tensor.is_quantized:
        raise ValueError(f"{name} must not be quantised, got {tensor.dtype}; save the dequantised weights")
    if tensor.shape != own.shape:
        raise ValueError(f"{name} must have shape {tuple(own.shape)}, got {tuple(tensor.shape)}")
    if (tensor.dtype in _FLOATS) != (own.dtype in _FLOATS) or tensor.is_complex() != own.is_complex():
        raise ValueError(f"{name} must be of type {own.dtype} or one like it, got {tensor.dtype}")
    value = tensor.to(own.dtype)
    if not own.is_floating_point() and not torch.equal(value.to(tensor.dtype), tensor):
        raise ValueError(f"{name} must fit into {own.dtype}, got {tensor.dtype} with larger values")
    bad = ~value.isfinite()
    if not torch.equal(value[bad], own.to(value.device)[bad]):
        raise ValueError(f"{name} must be finite, got NaN or infinity")


def _kind(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"one of layout {tensor.layout}" if tensor.layout != torch.strided else "one without numbers of its own"


def _load(model: nn.Module, tensors: Any, source: str) -> None:
    try:
        model.load_state_dict(tensors, strict=False)  # names were compared, but for counters
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} cannot be put into the network: {reason}") from None


def _with(tensors: Tensors, versions: Any) -> Tensors:
    """Return tensors beside the versions of the modules that wrote them."""
    found: Any = OrderedDict(tensors)
    if versions:
        found._metadata = versions
    return found  # type: ignore[no-any-return]


def _versioned(tensors: Tensors, own: Any) -> Tensors:
    """Return a copy beside its versions, or else those of the network's own state_dict."""
    return _with(tensors, getattr(tensors, "_metadata", None) or getattr(own, "_metadata", None))


def _unprefixed(versions: Any, prefix: str) -> Any:
    if not isinstance(versions, Mapping) or not prefix:
        return versions
    names = {name: (name + ".").removeprefix(prefix).removesuffix(".") for name in versions if isinstance(name, str)}
    return {new: versions[old] for old, new in names.items() if (old + ".").startswith(prefix)}


def _words(chosen: _Attempt, others: Sequence[_Attempt], source: str) -> str:
    if not chosen.where and not chosen.prefix:
        return ""
    passed = [other.name for other in others]
    prefixes = tuple(other.prefix for other in others if other.where == chosen.where and other.prefix)
    passed += [name for name in chosen.left if not name.startswith(prefixes)]
    over = f"; passed over: {_some(passed)}" if passed else ""
    return f"the weights are {chosen.name} of {source}{over}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown

"""What a class or a function is made of, as a hash: by it a change of what a user wrote is noticed."""

import ast
import dis
import hashlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import resolve_name
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from saplab.system.contents import Contents

_KNOWN: Final = {"saplab", "torch", *sys.stdlib_module_names} - {"__main__"}  # records name their versions
_PLAIN: Final = str | int | float | tuple | None  # values whose text tells them
_NUMBERS: Final = (bool, int, float, complex, Tensor, np.ndarray, np.generic)
_FIXED: Final = (bool, int, float, complex, str, bytes, tuple, frozenset, np.generic)
_HELD: Final = (Tensor, np.ndarray, list, dict, set)  # what can be written into
_WRITES: Final = frozenset({"STORE_SUBSCR", "DELETE_SUBSCR"})
_WRITERS: Final = frozenset({  # methods that write into what they are called on
    "append", "appendleft", "extend", "insert", "remove", "pop", "popleft", "popitem", "clear", "sort", "reverse",
    "add", "discard", "update", "setdefault", "fill", "put", "resize", "setflags",
})  # fmt: skip


@dataclass(frozen=True)
class _Reached:
    """What is reached from a class's methods or a function.

    Attributes:
        names: globals, each as its module and its name, in order.
        assigned: those that the code assigns to.
        written: names of globals and attributes that the code may write into: named where something is written into.
        code: the user's functions and classes among the globals, with where each was found and its methods.
    """

    names: tuple[tuple[ModuleType, str], ...]
    assigned: frozenset[tuple[ModuleType, str]]
    written: frozenset[str]
    code: tuple[tuple[ModuleType, str, Any, tuple[Any, ...]], ...]

    @property
    def is_current(self) -> bool:
        """Return whether the names still stand for the same code."""
        return all(vars(m).get(name) is found and _methods(found) == now for m, name, found, now in self.code)


_known: Final[WeakKeyDictionary[Any, tuple[tuple[Any, ...], _Reached]]] = WeakKeyDictionary()
_DATA: Final = (*_NUMBERS, str, bytes, tuple, list, dict, set, frozenset, SimpleNamespace)


def source_digest(cls: Any) -> str:
    """Return a hash of the source of a class and its bases, but for those of saplab and of Python; "" if none is left.

    It is that of their modules, of the user's modules that these import, and of what was compiled of the classes and
    of the user's functions and classes that they name, so that what is written at a prompt counts as well, and a method
    that was replaced. Values that a module or a class is given while it runs do not count; see `data_of`.
    """
    own = tuple(base for base in cls.__mro__ if _is_own(base))
    return _digest(own, _methods(cls), tuple(one[2:] for one in _reached(cls).code)) if own else ""


@cache
def _digest(own: tuple[type, ...], methods: tuple[Any, ...], named: tuple[Any, ...]) -> str:
    """Return the hash for classes, whose methods are these and which name that code: others after one was replaced."""
    texts = [*map(_source, own), *(_code(found) for found, _ in named)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _is_own(base: type) -> bool:
    return base.__module__.partition(".")[0] not in _KNOWN


def _methods(code: Any) -> tuple[Any, ...]:
    """Return the methods of a class and its bases, as they are now; none of a function."""
    own = filter(_is_own, code.__mro__) if isinstance(code, type) else ()
    return tuple(member for base in own for member in vars(base).values() if _function(member))


def class_digest(cls: type) -> str:
    """Return a hash of what a class does: its source, and constants that its code reads besides; "" of saplab's own."""
    source = source_digest(cls)
    read = [f"{name} {contents_text(value)}" for name, value in _constants_of(cls)]
    return hashlib.sha256("\n".join([source, *read]).encode()).hexdigest()[:16] if read else source


def data_of(code: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values besides its own that a user's class or function reads as it runs, as name and value.

    These are attributes of the class and of its bases, and globals that its methods name, or functions and classes of
    the user's that these name: numbers, texts, containers, tensors, arrays and objects of the user's, as they are now.
    What `__init__` names is in attributes of the object.
    """
    for base in code.__mro__ if isinstance(code, type) else ():
        for name, value in list(vars(base).items()) if is_users(base) else ():
            if name[:2] != "__" and _is_data(value):
                yield f"{base.__module__}.{base.__qualname__}.{name}", value
    for module, name in _reached(code).names:
        value = vars(module).get(name)
        if _is_data(value):
            yield f"{module.__name__}.{name}", value


def _constants_of(code: Any) -> Iterator[tuple[str, Any]]:
    """Yield of `data_of` what cannot change by itself: nothing that may be written into, no global that is assigned.

    A counter must not make a class another one, where nobody looks which values passes write.
    """
    reached = _reached(code)
    assigned = {f"{module.__name__}.{name}" for module, name in reached.assigned}
    for name, value in data_of(code):
        written = isinstance(value, _HELD) and name.rpartition(".")[2] in reached.written
        if isinstance(value, (*_FIXED, *_HELD)) and name not in assigned and not written:
            yield name, value


def _reached(code: Any) -> _Reached:
    """Return what `_followed` finds, looked for once as long as the methods and what they name are the same."""
    methods, known = _methods(code), _known.get(code)
    if known is None or known[0] != methods or not known[1].is_current:
        known = _known[code] = methods, _followed(code)
    return known[1]


def _followed(code: Any) -> _Reached:
    """Follow a class's methods, or a function, to the globals that they name, and on from there."""
    found: set[tuple[ModuleType, str]] = set()
    assigned: set[tuple[ModuleType, str]] = set()
    written: set[str] = set()
    done: set[int] = set()
    ahead: list[Any] = [code]
    while ahead:
        here = ahead.pop()
        if id(here) in done or not _is_users(sys.modules.get(getattr(here, "__module__", None) or "")):
            continue
        done.add(id(here))
        if isinstance(here, type):
            ahead += [*here.__bases__, *(vars(here)[name] for name in vars(here) if name[:2] != "__")]
        elif (function := _function(here)) is not None:
            own, writes = _written(function.__code__)
            written.update(_names(function.__code__) if writes else ())
            for module, name in _reads(function):
                found.add((module, name))
                assigned.update({(module, name)} if name in own else ())
                ahead.append(vars(module)[name])
    names = sorted(found, key=lambda one: (one[0].__name__, one[1]))
    values = ((module, name, vars(module)[name]) for module, name in names)
    named = tuple((*one, _methods(one[2])) for one in values if _is_code(one[2]))
    return _Reached(tuple(names), frozenset(assigned), frozenset(written), named)


def _is_code(value: Any) -> bool:
    """Return whether a global is a function or a class of the user's."""
    return (isinstance(value, type) or _function(value) is not None) and _is_users(
        sys.modules.get(getattr(value, "__module__", None) or "")
    )


def _written(code: CodeType) -> tuple[set[str], bool]:
    """Return the globals that a function's code assigns to, and whether it may write into what it names."""
    instructions = list(dis.get_instructions(code))
    assigned = {one.argval for one in instructions if one.opname == "STORE_GLOBAL"}
    writes = any(one.opname in _WRITES for one in instructions) or any(map(_is_writer, code.co_names))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            own, inner = _written(constant)
            assigned, writes = assigned | own, writes or inner
    return assigned, writes


def _is_writer(name: str) -> bool:
    return name in _WRITERS or (name[-1:] == "_" and name[:1] != "_")  # PyTorch's methods that work in place


def _function(member: Any) -> FunctionType | None:
    member = member.fget if isinstance(member, property) else member
    member = member.__func__ if isinstance(member, staticmethod | classmethod | MethodType) else member
    return member if isinstance(member, FunctionType) else None


def _reads(function: FunctionType) -> Iterator[tuple[ModuleType, str]]:
    """Yield the globals that a function's code names, in its own module and as attributes of the user's modules."""
    names, own = _names(function.__code__), sys.modules.get(function.__module__)
    modules: list[ModuleType] = [] if own is None else [own]
    for module in modules:  # which grows: pk.cfg.STD names a module of a module
        inner = (vars(module).get(name) for name in names)
        modules += [one for one in inner if isinstance(one, ModuleType) and _is_users(one) and one not in modules]
        yield from ((module, name) for name in names if name in vars(module))


def _names(code: CodeType) -> list[str]:
    inner = (name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant))
    return list(dict.fromkeys([*code.co_names, *inner]))


def _is_data(value: Any) -> bool:
    return isinstance(value, _DATA) or (not isinstance(value, type | FunctionType) and is_users(type(value)))


def is_users(cls: type) -> bool:
    """Return whether a class was written by the user."""
    return _is_users(sys.modules.get(cls.__module__))


def callable_digest(called: Any) -> str:
    """Return a hash of what a function does: its module's source, its code, defaults and captured values.

    Of a partial that is its function and arguments, of a method also its object, of an object with `__call__` its class
    and attributes; of what is not written in Python, its name.
    """
    return contents_text(called)[:16]


def contents_text(value: Any) -> str:
    """Return a text of all that a value holds, which tells it from any other; see `Contents`."""
    return Contents(_called, source_digest).text(value)


def _called(called: Any, contents: Contents) -> str:
    if isinstance(called, partial):
        return "\n".join(map(contents.text, (called.func, called.args, called.keywords)))
    bound = getattr(called, "__self__", None)  # of a method: its object; of a function of C's: its module
    if (function := getattr(called, "__func__", None)) is not None:
        return "\n".join(map(contents.text, (function, bound)))
    if inspect.isfunction(called):
        own = called.__module__.partition(".")[0] not in _KNOWN
        captured = [_captured(cell, contents) for cell in called.__closure__ or ()]
        read = [f"{name} {contents.text(value)}" for name, value in _constants_of(called)]
        read += [_code(found) for _, _, found, _ in _reached(called).code] if own else []
        values = [contents.text(called.__defaults__), contents.text(called.__kwdefaults__), *read]
        return "\n".join([called.__qualname__, _text(called) if own else "", _member(called), *captured, *values])
    if bound is not None and not inspect.ismodule(bound):
        return f"{called.__qualname__} {contents.text(bound)}"
    return f"{getattr(called, '__module__', '')}.{getattr(called, '__qualname__', type(called).__qualname__)}"


def _captured(cell: CellType, contents: Contents) -> str:
    try:
        return contents.text(cell.cell_contents)
    except ValueError:  # nothing was put into it
        return ""


def _text(found: Any) -> str:
    """Return the source on the disk of the module of a class or function, and of the user's modules that it imports."""
    module = inspect.getmodule(found)
    if module is None:
        return ""
    return "\n".join([_read(module), *(f"{name} {_read(other)}" for name, other in sorted(_imported(module).items()))])


def _read(module: ModuleType) -> str:
    if hasattr(module, "__file__"):
        with suppress(OSError):
            return inspect.getsource(module)
    return ""


def _imported(module: ModuleType) -> dict[str, ModuleType]:
    """Return the user's modules that a module of the user's imports anywhere in its source, and that these import."""
    found: dict[str, ModuleType] = {}
    ahead = [module] if _is_users(module) else []
    while ahead:
        here = ahead.pop()
        for name in _imports(_read(here), here.__package__):
            other = sys.modules.get(name)
            if other is not None and other is not module and name not in found and _is_users(other):
                found[name] = other
                ahead.append(other)
    return found


@cache
def _imports(source: str, package: str | None) -> tuple[str, ...]:
    """Return the names that may be modules in the import statements of a module of a package."""
    found: list[str] = []
    with suppress(SyntaxError, ImportError):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found += (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                relative = "." * node.level + (node.module or "")
                whole = resolve_name(relative, package) if node.level else relative
                found += [whole, *(f"{whole}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _is_users(module: Any) -> bool:
    """Return whether a value is a module that is neither saplab's nor Python's nor installed."""
    if not isinstance(module, ModuleType):
        return False
    if module.__name__ == "__main__":
        return True
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] in _KNOWN:
        return False
    return not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _source(cls: type) -> str:
    """Return a class's module as it is on the disk, and what of the class was compiled, which may be older."""
    return "\n".join([_text(cls), _code(cls)])


def _code(found: Any) -> str:
    """Return what was compiled of a function or a class."""
    if not isinstance(found, type):
        return f"{getattr(found, '__qualname__', '')} {_member(found)}"
    members = (f"{name} {_member(value)}" for name, value in sorted(vars(found).items()) if name[:2] != "__")
    return "\n".join([found.__qualname__, *members])


def _member(value: Any) -> str:
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        return "\n".join(map(_member, (value.fget, value.fset)))
    if inspect.isfunction(value):
        return "\n".join([_compiled(value.__code__), *map(_plain, _defaults(value))])
    return repr(value) if isinstance(value, _PLAIN) else ""


def _defaults(function: Any) -> list[Any]:
    return [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]


def _plain(value: Any) -> str:
    return repr(value) if isinstance(value, _PLAIN) else type(value).__qualname__


def _compiled(code: CodeType) -> str:
    constants = (_compiled(value) if isinstance(value, CodeType) else _constant(value) for value in code.co_consts)
    return "\n".join([code.co_code.hex(), *code.co_names, *constants])


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)

"""What a class or a function is made of, as a hash: by it a change of what a user wrote is noticed."""

import hashlib
import inspect
import sys
from contextlib import suppress
from functools import cache, partial
from types import CodeType
from typing import Any, Final

_KNOWN: Final = {"saplab", *sys.stdlib_module_names} - {"__main__"}
_PLAIN: Final = str | int | float | tuple | None  # values whose text tells them


def source_digest(cls: Any) -> str:
    """Return a hash of the source of a class and its bases, but for those of saplab and of Python; "" if none is left.

    It is that of their modules and of what was compiled, so that a class written at a prompt counts as well.
    """
    return _digest(cls)


@cache
def _digest(cls: Any) -> str:
    own = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _KNOWN]
    return hashlib.sha256("\0".join(map(_source, own)).encode()).hexdigest()[:16] if own else ""


def callable_digest(called: Any) -> str:
    """Return a hash of what a function does: its module's source, its code, defaults and plain captured values.

    Of a partial that is its function and arguments, of an object with `__call__` its class and plain attributes; of
    what is not written in Python, its name.
    """
    return hashlib.sha256(_called(called).encode()).hexdigest()[:16]


def _called(called: Any) -> str:
    if isinstance(called, partial):
        return "\n".join([_called(called.func), repr(called.args), repr(sorted(called.keywords.items()))])
    called = getattr(called, "__func__", called)  # of a bound method
    if inspect.isfunction(called):
        own = called.__module__.partition(".")[0] not in _KNOWN
        captured = [_captured(cell.cell_contents) for cell in called.__closure__ or ()]
        return "\n".join([called.__qualname__, _text(called) if own else "", _member(called), *captured])
    if hasattr(called, "__qualname__"):
        return f"{called.__module__}.{called.__qualname__}"
    return f"{type(called).__qualname__} {source_digest(type(called))} {sorted(map(_named, vars(called).items()))}"


def _named(pair: tuple[str, Any]) -> str:
    return f"{pair[0]} {_captured(pair[1])}"


def _captured(value: Any) -> str:
    return repr(value) if isinstance(value, _PLAIN) else _called(value) if callable(value) else type(value).__qualname__


def _text(found: Any) -> str:
    """Return the source of the module of a class or function as it is on the disk; "" where there is none."""
    module = inspect.getmodule(found)
    if module is not None and hasattr(module, "__file__"):
        with suppress(OSError):
            return inspect.getsource(module)
    return ""


def _source(cls: type) -> str:
    """Return a class's module as it is on the disk, and what of the class was compiled, which may be older."""
    text = _text(cls)
    members = (f"{name} {_member(value)}" for name, value in sorted(vars(cls).items()) if not name.startswith("__"))
    return "\n".join([cls.__qualname__, text, *members])


def _member(value: Any) -> str:
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        return "\n".join(map(_member, (value.fget, value.fset)))
    if inspect.isfunction(value):
        return "\n".join([_compiled(value.__code__), repr(value.__defaults__), repr(value.__kwdefaults__)])
    return repr(value) if isinstance(value, _PLAIN) else ""


def _compiled(code: CodeType) -> str:
    constants = (_compiled(value) if isinstance(value, CodeType) else _constant(value) for value in code.co_consts)
    return "\n".join([code.co_code.hex(), *code.co_names, *constants])


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)

"""What a class is made of, as a hash: by it a change of a user's class is noticed."""

import hashlib
import inspect
import sys
from contextlib import suppress
from functools import cache
from types import CodeType
from typing import Any, Final

_KNOWN: Final = {"saplab", *sys.stdlib_module_names} - {"__main__"}


def source_digest(cls: Any) -> str:
    """Return a hash of the source of a class and its bases, but for those of saplab and of Python; "" if none is left.

    It is that of their modules and of what was compiled, so that a class written at a prompt counts as well.
    """
    return _digest(cls)


@cache
def _digest(cls: Any) -> str:
    own = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _KNOWN]
    return hashlib.sha256("\0".join(map(_source, own)).encode()).hexdigest()[:16] if own else ""


def _source(cls: type) -> str:
    """Return a class's module as it is on the disk, and what of the class was compiled, which may be older."""
    module, text = inspect.getmodule(cls), ""
    if module is not None and hasattr(module, "__file__"):
        with suppress(OSError):
            text = inspect.getsource(module)
    members = (f"{name} {_member(value)}" for name, value in sorted(vars(cls).items()) if not name.startswith("__"))
    return "\n".join([cls.__qualname__, text, *members])


def _member(value: Any) -> str:
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        return "\n".join(map(_member, (value.fget, value.fset)))
    if inspect.isfunction(value):
        return "\n".join([_compiled(value.__code__), repr(value.__defaults__), repr(value.__kwdefaults__)])
    return repr(value) if isinstance(value, str | int | float | tuple | None) else ""


def _compiled(code: CodeType) -> str:
    constants = (_compiled(value) if isinstance(value, CodeType) else _constant(value) for value in code.co_consts)
    return "\n".join([code.co_code.hex(), *code.co_names, *constants])


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)

"""What a class is made of, as a hash: by it a change of a user's class is noticed."""

import hashlib
import inspect
import sys
from functools import cache
from types import CodeType
from typing import Any, Final

_KNOWN: Final = {"saplab", *sys.stdlib_module_names} - {"__main__"}


def source_digest(cls: Any) -> str:
    """Return a hash of the source of a class and its bases, but for those of saplab and of Python; "" if none is left.

    It is that of their modules, or of what was compiled where a class was written at a prompt.
    """
    return _digest(cls)


@cache
def _digest(cls: Any) -> str:
    own = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _KNOWN]
    return hashlib.sha256("\0".join(map(_source, own)).encode()).hexdigest()[:16] if own else ""


def _source(cls: type) -> str:
    module = inspect.getmodule(cls)
    if module is not None and hasattr(module, "__file__"):
        return inspect.getsource(module)
    functions = (value for value in vars(cls).values() if inspect.isfunction(value))
    return "\n".join([cls.__qualname__, *(_compiled(function.__code__) for function in functions)])


def _compiled(code: CodeType) -> str:
    constants = (_compiled(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts)
    return "\n".join([code.co_code.hex(), *code.co_names, *constants])

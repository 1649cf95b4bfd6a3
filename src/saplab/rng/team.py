"""The team of threads that PyTorch's own operators run on, where that is an OpenMP library with GCC's interface.

PyTorch's threads spin for milliseconds after their last task. Threads of another pool have to wait for the cores until
then; on the same team, the next task is what the spinning threads are waiting for.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from operator import methodcaller
from pathlib import Path
from typing import Any, Final

import torch

_BODY: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_forked: list[int] = []  # a forked child has the team's records, but not its threads: it would wait for them forever

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forked.append(os.getpid()))


def has_team() -> bool:
    """Return whether `on_team` can be called: on Linux, in a process that was not forked."""
    return not _forked and _parallel() is not None


def on_team(part: Callable[[], None], threads: int) -> list[BaseException]:
    """Call `part()` once on each of up to that many threads, the calling one among them; return what they raised."""
    errors: list[BaseException] = []
    parts = [_begun(part, errors) for _ in range(threads)]
    for each in parts:
        next(each)
    # All in C up to where a part goes on, inside its `try`: a signal's exception in between would be printed and lost.
    resumed = map(methodcaller("send", None), parts)
    _parallel()(_BODY(partial(next, resumed)), None, threads, 0)
    return errors


def _begun(part: Callable[[], None], errors: list[BaseException]) -> Iterator[None]:
    try:
        yield
        part()
    except GeneratorExit:  # the team had fewer threads
        return
    except BaseException as error:
        errors.append(error)
    yield


@cache
def _parallel() -> Any:
    """Return GOMP_parallel of PyTorch's OpenMP library (GCC's; LLVM's and Intel's have it as well), or None."""
    if sys.platform != "linux" or not torch.backends.openmp.is_available():
        return None
    of_torch = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    for path in (None, str(of_torch)):  # in the order in which the linker looked for PyTorch
        try:
            function = ctypes.CDLL(path, os.RTLD_NOLOAD | os.RTLD_LAZY)["GOMP_parallel"]
        except (OSError, AttributeError):
            continue
        function.argtypes, function.restype = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return function
    return None

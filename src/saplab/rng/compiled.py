"""How kernels are compiled and kept: on disk while that works, and never older than the code that they call."""

import hashlib
import inspect
import warnings
from collections.abc import Callable
from functools import cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Final

from numba import njit
from numba.core.caching import FunctionCache

_PACKAGE: Final = Path(__file__).parents[1]
_ROOMS: Final = ("rng", "pruning")  # their kernels call each other
_told: list[str] = []  # why kernels cannot be kept, once in a process
_FAST: Final = {"reassoc", "nsz", "contract"}


class UncachedKernelsWarning(RuntimeWarning):
    """Kernels are compiled in each process, which takes it seconds."""


class KernelCache(FunctionCache):
    """Numba's cache of a function, whose stamp covers every file with kernels.

    Numba's own looks at the function's file alone; but a kernel also changes with functions from other files. What
    cannot be read or written is compiled, and kept in memory.
    """

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        own = Path(inspect.getfile(function)).read_bytes()
        self._cache_file._source_stamp = hashlib.sha256(_shared() + own).hexdigest()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the stored code; None where there is none, or it cannot be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever pickle makes of a damaged file
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store the code of a signature, where that is possible."""
        try:
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # a damaged index
                self.flush()
                super().save_overload(sig, data)
        except OSError as error:
            _tell_once(error.strerror or str(error))
            self.disable()


def _kernel(**options: Any) -> Callable[[Any], Any]:
    """Return a decorator that compiles functions, which release the interpreter's lock, and caches them on disk."""

    def decorate(function: Any) -> Any:
        kernel = njit(nogil=True, error_model="numpy", **options)(function)
        try:
            kernel._cache = KernelCache(function)
        except (RuntimeError, OSError) as error:  # no folder can be written
            _tell_once(str(error))
        return kernel

    return decorate


scalar_kernel: Any = _kernel()
vector_kernel: Any = _kernel(fastmath=_FAST)  # for loops over blocks of elements: sums may be reordered to vectorise


@cache
def _shared() -> bytes:
    paths = (path for room in _ROOMS for path in sorted((_PACKAGE / room).glob("*.py")))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).digest()


def _tell_once(reason: str) -> None:
    """Warn the person at the driver, not its workers, of the first reason alone."""
    if _told or parent_process() is not None:
        return
    _told.append(reason)
    warnings.warn(
        "kernels are compiled anew in each process, which takes it seconds, as they cannot be kept on disk"
        f" ({reason.partition(':')[0]}); NUMBA_CACHE_DIR=FOLDER names a folder that can be written",
        UncachedKernelsWarning,
        stacklevel=2,
    )

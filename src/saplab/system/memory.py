"""How much memory there is, and what the C library does with freed memory."""

import ctypes
import os
import platform
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_OF_USERS: Final = ("MALLOC_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for this process, as every pass needs the same again; return whether that was done.

    Memory returned to the system comes back as zeroed pages, about 35,000 of them in a step of training. Threads share
    one arena, because further arenas return memory whatever the settings. Call this before threads start. Other C
    libraries are left alone, and so are the user's own settings (``MALLOC_…``, ``GLIBC_TUNABLES``).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(_OF_USERS) for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = (_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1)
    return all(mallopt(*option) == 1 for option in options)


def physical_memory() -> int | None:
    """Return the bytes of memory that the machine has; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None


def peak_memory() -> int:
    """Return the most memory, in MiB, that this process or one of its ended children has held; 0 where unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return most // (1 << 20 if platform.system() == "Darwin" else 1 << 10)

"""Who uses a run folder: a lock, which the system takes back however a process ends."""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from saplab.system.folder import inside

try:
    import fcntl
except ImportError:  # not posix: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK: Final = ".lock"


class Claim:
    """This process's use of a folder, while the object lives; shared by all that the process does there."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Yield whether no other process uses the folder; none can begin to until the context is left."""
        alone = self._lock(shared=False, wait=False)
        if not alone:
            self._lock(shared=True, wait=True)  # until the other has opened it
        try:
            yield alone
        finally:
            self._lock(shared=True, wait=True)

    def _lock(self, *, shared: bool, wait: bool) -> bool:
        """Return whether the lock was free; where files cannot be locked, all are."""
        if self.descriptor is None or fcntl is None:
            return True
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self.descriptor, how)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        return True


_claims: "weakref.WeakValueDictionary[tuple[int, int], Claim]" = weakref.WeakValueDictionary()  # by device and inode


def claim(root: Path) -> Claim:
    """Return this process's use of the folder `root`, which is there."""
    path = inside(root, LOCK)
    with suppress(OSError):
        status = path.stat()
        if (known := _claims.get((status.st_dev, status.st_ino))) is not None:
            return known
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # a folder to read only
        return Claim(None)
    status = os.fstat(descriptor)
    made = _claims[status.st_dev, status.st_ino] = Claim(descriptor)
    return made

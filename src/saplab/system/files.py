"""Files that are written whole or not at all."""

import errno
import os
import re
import secrets
import socket
import time
from pathlib import Path

_STALE_SECONDS = 86_400.0  # a day, in which no writer is still at it, wherever it runs


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`: whatever happens, a reader sees the whole old file or the whole new one.

    The bytes go to a hidden file in the same folder (``.NAME.PID@HOST.RANDOM.tmp``) and are flushed to the disk
    before that file is renamed. An OSError names `path`, which is as it was before; for a full disk it says what to do.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}@{_host()}.{secrets.token_hex(4)}.tmp"
    try:
        _write_through(temporary, content)
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def at_home(name: str, path: str) -> Path:
    """Return a path with the home folder that a leading ~ or ~user stands for; `name` is that of the setting."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"`{name}` {path} names a user whose home folder is not known") from None


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that killed processes left in `folder`; none that may still be written."""
    for temporary in folder.glob(".*.tmp"):
        if _is_stale(temporary):
            temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Return whether `path` has the name of a temporary file."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _write_through(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explained(error: OSError, path: Path) -> OSError:
    """Return an error that names `path`, and says what to do where the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "no space left on the device; what was saved before is whole: free some space and run this again"
        return OSError(error.errno, advice, str(path))
    return type(error)(error.errno, error.strerror, str(path)) if error.errno else error


def _is_stale(temporary: Path) -> bool:
    try:
        age = time.time() - temporary.stat().st_mtime
    except FileNotFoundError:  # its writer has just renamed it
        return False
    return age > _STALE_SECONDS or not _may_be_alive(temporary)


def _host() -> str:
    """Return the name of this machine, fit for a part of a file name."""
    return re.sub(r"\W", "-", socket.gethostname())


def _may_be_alive(temporary: Path) -> bool:
    pid, _, host = temporary.name.split(".")[-3].partition("@")
    if host != _host() or os.name != "posix" or not pid.isdecimal():  # elsewhere `os.kill` would end the process
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's process
        pass
    return True

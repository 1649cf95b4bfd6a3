"""Files inside a folder of results, which may come from elsewhere: links in it are refused, and so is what is no file.

The folder itself may be a link, such as one to a larger disk.
"""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Final

from saplab.system.files import explained, write_atomically

_LARGEST: Final = 1 << 28  # bytes that are read at once; requests, notes and cards are far smaller
_KINDS: Final = (
    (stat.S_ISLNK, "a link"), (stat.S_ISREG, "a file"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


class NotPlainError(OSError):
    """A link, pipe, device or socket inside a folder of results, or a folder in the place of a file."""


def inside(root: Path, name: str, *, folder: bool = False) -> Path:
    """Return the path of a file of `root`, or of a folder in it, whether it is there or not.

    Raises:
        NotPlainError: something else is there, or on the way from `root`.
        ValueError: `name` leads out of `root`.
    """
    path, parts = root, PurePath(name).parts
    if PurePath(name).is_absolute() or ".." in parts:
        raise ValueError(f"{name} lies outside {root}")
    for k, part in enumerate(parts, 1):
        path /= part
        _require(path, folder=folder or k < len(parts), file=not folder and k == len(parts))
    return path


def require_plain(root: Path, *, folders: bool = True) -> None:
    """Refuse a folder in which a link, pipe, device or socket lies, or where not `folders` another folder."""
    if root.is_dir():
        for name in os.listdir(root):  # noqa: PTH208 - hidden files as well
            _require(root / name, folder=folders, file=True)


def read_inside(root: Path, name: str) -> bytes:
    """Read a file of `root`; errors as in `inside`, or those of reading."""
    path = inside(root, name)
    if (size := path.stat().st_size) > _LARGEST:
        raise OSError(errno.EFBIG, f"it is too large, {size / 2**20:,.0f} MiB", str(path))
    return path.read_bytes()


def write_inside(root: Path, name: str, content: bytes) -> Path:
    """Write a file of `root`, whole or not at all, where its folder is there, and return its path.

    Errors as in `inside`, or those of writing.
    """
    path = inside(root, name)
    write_atomically(path, content)
    return path


def write_files(root: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write files by name into `root`, each whole or not at all, and make the folders that are missing.

    Nothing is written where one of them is refused; errors as in `write_inside`.
    """
    root.mkdir(parents=True, exist_ok=True)
    paths = [inside(root, name) for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return tuple(paths)


def append_inside(root: Path, name: str, content: bytes) -> None:
    """Append to a file of `root`; errors as in `write_inside`."""
    path = inside(root, name)
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise explained(error, path) from error


def _require(path: Path, *, folder: bool, file: bool) -> None:
    """Refuse what is neither a folder nor a file, or is the one of them that is not wanted."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if (folder and stat.S_ISDIR(mode)) or (file and stat.S_ISREG(mode)):
        return
    kind = next((name for check, name in _KINDS if check(mode)), "a device")
    followed = "; links inside a folder of results are not followed" if stat.S_ISLNK(mode) else ""
    raise NotPlainError(errno.EINVAL, f"it is {kind}, not a {'file' if file else 'folder'}{followed}", str(path))

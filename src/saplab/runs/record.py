"""What a run says of itself beside its cells: who computes it since when, and what failed. It decides no number."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec

from saplab.runs.engines.base import Failed
from saplab.system.folder import append_inside, inside, read_inside, write_inside

RUN: Final = "run.json"
FAILURES: Final = "failures.jsonl"


class RunNote(msgspec.Struct):
    """Who computes a run, or did last; `ended` is None while it runs, times are seconds since 1970."""

    pid: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    host: str
    engine: str
    started: float
    ended: float | None


class FailureNote(msgspec.Struct):
    """A group that was given up: its cells' digests, the last try's reason and traceback."""

    cells: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    reason: str
    details: str
    tries: int
    time: str


@contextmanager
def running(root: Path, engine: str) -> Iterator[None]:
    """Note that this process computes the run of the folder `root`, until the context is left."""
    note = RunNote(os.getpid(), socket.gethostname(), engine, time.time(), None)
    before = last_run(root)[0]
    other = before if is_alive(before) else None  # processes may share a folder
    if other is None:
        inside(root, FAILURES).unlink(missing_ok=True)
    write_inside(root, RUN, msgspec.json.encode(note))
    try:
        yield
    finally:
        with suppress(OSError):  # of a full disk: what has gone wrong before matters more
            if last_run(root)[0] in (note, None):
                ended = msgspec.structs.replace(note, ended=time.time())
                write_inside(root, RUN, msgspec.json.encode(other if other and is_alive(other) else ended))


def last_run(root: Path) -> tuple[RunNote | None, tuple[str, ...]]:
    """Return the note of the last run, None without a whole one, and a line where it is damaged."""
    try:
        return msgspec.json.decode(read_inside(root, RUN), type=RunNote), ()
    except FileNotFoundError:
        return None, ()
    except (OSError, ValueError) as error:
        return None, (_unread(root / RUN, error),)


def is_alive(run: RunNote | None) -> bool:
    """Return whether the process of a run may still be there: it has not ended, nor vanished from this machine."""
    if run is None or run.ended is not None:
        return False
    if run.host != socket.gethostname() or os.name != "posix":  # elsewhere `os.kill` would end the process
        return True
    try:
        os.kill(run.pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def note_failure(root: Path, failed: Failed) -> None:
    """Append a failure to the folder's list."""
    cells, when = tuple(cell.digest for cell in failed.group), datetime.now(UTC).isoformat(timespec="seconds")
    note = FailureNote(cells, failed.reason, failed.details, failed.tries, when)
    append_inside(root, FAILURES, msgspec.json.encode(note) + b"\n")


def failures(root: Path) -> tuple[tuple[FailureNote, ...], tuple[str, ...]]:
    """Return the failures of the last run, and a line for each of them that is damaged: a kill may tear the last."""
    path = root / FAILURES
    found, damaged = [], []
    try:
        lines = read_inside(root, FAILURES).splitlines()
    except FileNotFoundError:
        return (), ()
    except OSError as error:
        return (), (_unread(path, error),)
    for number, line in enumerate(lines, 1):
        try:
            found.append(msgspec.json.decode(line, type=FailureNote))
        except ValueError as error:
            damaged.append(f"{path}, line {number} cannot be read: {error}")
    return tuple(found), tuple(damaged)


def _unread(path: Path, error: OSError | ValueError) -> str:
    return f"{path} cannot be read: {(isinstance(error, OSError) and error.strerror) or error}"

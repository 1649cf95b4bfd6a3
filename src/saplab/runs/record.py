"""What a run says of itself beside its cells: who computes it since when, and what failed. It decides no number."""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from saplab.runs.engines.base import Failed
from saplab.system.files import write_atomically

_RUN: Final = "run.json"
_FAILURES: Final = "failures.jsonl"


@contextmanager
def running(root: Path, engine: str) -> Iterator[None]:
    """Note that this process computes the run of the folder `root`, until the context is left."""
    note = {"pid": os.getpid(), "host": socket.gethostname(), "engine": engine, "started": time.time(), "ended": None}
    (root / _FAILURES).unlink(missing_ok=True)
    write_atomically(root / _RUN, json.dumps(note).encode())
    try:
        yield
    finally:
        with suppress(OSError):  # of a full disk: what has gone wrong before matters more
            write_atomically(root / _RUN, json.dumps({**note, "ended": time.time()}).encode())


def last_run(root: Path) -> Mapping[str, Any]:
    """Return the note of the last run: pid, host, engine, started, ended (None while it runs); empty without one."""
    try:
        found = json.loads((root / _RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"pid", "host", "engine", "started", "ended"} <= found.keys() else {}


def is_alive(run: Mapping[str, Any]) -> bool:
    """Return whether the process of a run may still be there: it has not ended, nor vanished from this machine."""
    if not run or run["ended"] is not None:
        return False
    if run["host"] != socket.gethostname() or os.name != "posix":  # elsewhere `os.kill` would end the process
        return True
    try:
        os.kill(run["pid"], 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def note_failure(root: Path, failed: Failed) -> None:
    """Append a failure to the folder's list."""
    cells, when = [cell.digest for cell in failed.group], datetime.now(UTC).isoformat(timespec="seconds")
    note = {"cells": cells, "reason": failed.reason, "details": failed.details, "tries": failed.tries, "time": when}
    with (root / _FAILURES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(note) + "\n")


def failures(root: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the failures of the last run: cells (their digests), reason, details, tries, time."""
    with suppress(FileNotFoundError), (root / _FAILURES).open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):  # a line that a kill has torn
                yield json.loads(line)

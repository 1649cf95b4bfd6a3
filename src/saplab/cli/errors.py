"""How the command ends: one line for a user's mistake, 130 within two seconds of Ctrl-C, silence on a broken pipe."""

import errno
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import typer

from saplab.system.errors import EvaluationError
from saplab.system.words import harmless

FAILED, MISTAKE, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 1
_GRACE_SECONDS = 1.0
_SHOW_CURSOR = b"\x1b[?25h"


def guarded(command: Callable[[], object]) -> int:
    """Run `command` and return the process's exit code.

    ValueError and OSError are a user's mistakes (bad input, missing file, full disk): one line on stderr and 2, or
    the traceback where the environment has SAPLAB_DEBUG=1; an EvaluationError, of cells that failed, is 1. Other errors
    are bugs and pass through.
    """
    try:
        result = _shown(command)
    except KeyboardInterrupt:
        result = INTERRUPTED
    except BrokenPipeError:
        _give_up_streams()
        return CLOSED_PIPE
    except Exception as error:
        if os.environ.get("SAPLAB_DEBUG") == "1" or not (line := explain(error)):
            raise
        with suppress(OSError):
            tell(f"error: {line}")
        _give_up_streams()
        return FAILED if isinstance(error, EvaluationError) else MISTAKE
    if result == INTERRUPTED:
        tell("interrupted")
    return result if isinstance(result, int) else 0


def _shown(command: Callable[[], object]) -> object:
    """Run a command whose output arrives."""
    if sys.stdout is None:
        raise ValueError("the standard output is closed; write >/dev/null where it is not wanted")
    result = command()
    sys.stdout.flush()
    return result


def _give_up_streams() -> None:
    """Let nothing come of what can no longer be written, such as the interpreter's last flush."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def explain(error: Exception) -> str:
    """Return in one line what the user should know; empty for an error that is a bug of this program."""
    if isinstance(error, typer.BadParameter.__mro__[1]):  # Typer's UsageError, which has no public name
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        return _one_line(f"{getattr(error, 'format_message')()}{hint}")  # noqa: B009 - untyped
    if isinstance(error, typer.Abort):
        return "aborted"
    if isinstance(error, OSError) and error.filename is not None:
        return _one_line(f"{error.filename}: {error.strerror}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return f"the output cannot be written: {error.strerror}"
    return _one_line(str(error) or repr(error)) if isinstance(error, ValueError | OSError | EvaluationError) else ""


def show_own_warnings() -> None:
    """From now on, show the package's own warnings as one line on stderr, without the place in its code."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category.__module__.startswith("saplab."):
            tell(f"warning: {message}")
        else:
            others(message, category, *place, **more)

    warnings.showwarning = show


def tell(text: str) -> None:
    """Write a line of the program's own to stderr."""
    typer.echo(f"saplab: {harmless(text)}", err=True)


def end_on_interrupt() -> None:
    """From now on, end the process within two seconds of Ctrl-C even if threads or native code still run.

    Python's own KeyboardInterrupt comes first and lets files and bars be closed; a thread ends what is left.
    """
    read, write = socket.socketpair()
    write.setblocking(False)
    signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_after_interrupt, args=(read, write), daemon=True).start()


def leave(code: int) -> NoReturn:
    """End the process; after Ctrl-C without the interpreter's own clean-up, which libraries can stretch to seconds."""
    if code == INTERRUPTED:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _end_after_interrupt(read: socket.socket, _write: socket.socket) -> None:
    while read.recv(1) != bytes([signal.SIGINT]):
        pass
    time.sleep(_GRACE_SECONDS)
    with suppress(OSError):
        os.write(2, (_SHOW_CURSOR if sys.stderr.isatty() else b"") + b"saplab: interrupted\n")
    os._exit(INTERRUPTED)


def _one_line(text: str) -> str:
    return " ".join(text.split())

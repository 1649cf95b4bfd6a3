"""How far a long computation is: one line on a terminal or in a notebook; in a pipe only where it is asked for."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Literal

Tick = Callable[[int], None]
Show = Callable[[str, int], AbstractContextManager[Tick]]  # of a description and the whole work
Choice = bool | Literal["lines"]  # of a caller: `shown`, `lines` or `silent`

_LINE_SECONDS: Final = 5.0
_NOTEBOOK_SECONDS: Final = 0.5


@contextmanager
def shown(description: str, total: int) -> Iterator[Tick]:
    """Show a bar on a terminal's stderr, or a line in a notebook, until the context is left; nothing elsewhere."""
    if (display := _notebook()) is not None:
        with _line_of(display, description, total) as tick:
            yield tick
    elif sys.stderr.isatty():
        with _bar(description, total) as tick:
            yield tick
    else:
        yield lambda n: None


@contextmanager
def silent(description: str, total: int) -> Iterator[Tick]:
    """Show nothing."""
    yield lambda n: None


@contextmanager
def lines(description: str, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Tick]:
    """Write a line to stderr at the start, every few seconds and at the end."""
    begin = last = clock()
    done = 0
    _write(f"{description}: {total:,} to do")

    def tick(n: int) -> None:
        nonlocal done, last
        done += n
        now = clock()
        if n and (done >= total or now - last >= _LINE_SECONDS):
            last = now
            _write(_line(description, now - begin, done, total))

    yield tick


def show_of(progress: Choice) -> Show:
    """Return how to show what a caller asked for; ValueError for anything else."""
    if progress not in (True, False, "lines"):
        raise ValueError(f"`progress` must be True, False or 'lines', got {progress!r}")
    return lines if progress == "lines" else shown if progress else silent


def is_seen() -> bool:
    """Return whether `shown` and `note` would show something."""
    return _notebook() is not None or sys.stderr.isatty()


def note(text: str) -> None:
    """Write a line where `shown` would show something; nothing elsewhere."""
    if (display := _notebook()) is not None:
        display({"text/plain": text}, raw=True)
    elif sys.stderr.isatty():
        _write(text)


@contextmanager
def _bar(description: str, total: int) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    words, percent = TextColumn("{task.description}"), TextColumn("{task.percentage:>3.0f} %")
    with Progress(words, BarColumn(), percent, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda n: bar.advance(task, n)


@contextmanager
def _line_of(display: Any, description: str, total: int) -> Iterator[Tick]:
    """Keep one line of a notebook up to date, which needs no widgets."""
    begin = last = time.monotonic()
    done = 0
    handle = display({"text/plain": f"{description}: 0 %"}, raw=True, display_id=True)

    def tick(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if n and (done >= total or now - last >= _NOTEBOOK_SECONDS):
            last = now
            handle.update({"text/plain": _line(description, now - begin, done, total)}, raw=True)

    yield tick


def _write(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _line(description: str, seconds: float, done: int, total: int) -> str:
    left = f"about {seconds * (total - done) / max(done, 1):.0f} s left"
    return f"{description}: {100 * done // max(total, 1)} %, {seconds:.0f} s{'' if done >= total else f', {left}'}"


def _notebook() -> Any:
    """Return IPython's `display` in a notebook; else None."""
    if (ipython := sys.modules.get("IPython")) is None:
        return None
    shell = ipython.get_ipython()
    return ipython.display.display if type(shell).__name__ in ("ZMQInteractiveShell", "Shell") else None

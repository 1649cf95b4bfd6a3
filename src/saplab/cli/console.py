"""What a person sees: text and progress. With ``--json`` the result alone is on stdout."""

import json as codec
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import typer

_LINE_SECONDS = 5.0

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Console:
    """The person's side of a verb."""

    json: bool = False  # stdout is for the JSON result; all else is on stderr then

    def say(self, text: str = "") -> None:
        """Write text and the end of a line."""
        typer.echo(text, err=self.json)

    def emit_json(self, result: object) -> None:
        """Write the result as one line of JSON to stdout; ValueError for NaN or infinity, which JSON does not have."""
        typer.echo(codec.dumps(result, ensure_ascii=False, allow_nan=False))

    def progress(self, description: str, total: int) -> AbstractContextManager[Tick]:
        """Show on stderr how far a work of `total` parts is: a bar on a terminal, elsewhere a line now and then."""
        from saplab.evaluation.progress import shown

        return shown(description, total) if sys.stderr.isatty() else _lines(description, total)


@contextmanager
def _lines(description: str, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Tick]:
    begin = shown = clock()
    done = 0
    typer.echo(f"{description}: 0/{total}", err=True)

    def tick(n: int) -> None:
        nonlocal done, shown
        done += n
        now = clock()
        if done >= total or now - shown >= _LINE_SECONDS:
            shown = now
            typer.echo(f"{description}: {done}/{total}, {_times(now - begin, done, total)}", err=True)

    yield tick


def _times(seconds: float, done: int, total: int) -> str:
    if done >= total:
        return f"took {seconds:.0f} s"
    return f"{seconds:.0f} s, about {seconds * (total - done) / max(done, 1):.0f} s left"

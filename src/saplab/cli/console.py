"""What a person sees: text and progress. With ``--json`` the result alone is on stdout."""

import json as codec
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from saplab.system.words import harmless

if TYPE_CHECKING:
    from saplab.system.progress import Tick


@dataclass(frozen=True)
class Console:
    """The person's side of a verb."""

    json: bool = False  # stdout is for the JSON result; all else is on stderr then

    def say(self, text: str = "") -> None:
        """Write text and the end of a line."""
        typer.echo(harmless(text), err=self.json)

    def note(self, text: str) -> None:
        """Write a line about the work that begins to stderr."""
        typer.echo(harmless(text), err=True)

    def emit_json(self, result: object) -> None:
        """Write the result as one line of JSON to stdout; ValueError for NaN or infinity, which JSON does not have."""
        typer.echo(codec.dumps(result, ensure_ascii=False, allow_nan=False))

    def progress(self, description: str, total: int) -> "AbstractContextManager[Tick]":
        """Show on stderr how far a work of `total` parts is: a bar on a terminal, elsewhere a line now and then."""
        from saplab.system.progress import lines, shown

        return shown(description, total) if sys.stderr.isatty() else lines(description, total)

"""What a generated input is, and how one is registered."""

import os
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

CANARY = "canary"  # a file that only code in a generated input would make


@dataclass(frozen=True)
class Case:
    """One input for saplab.

    Attributes:
        text: what it is, to be read when it fails.
        run: gives it to saplab, in a process of its own whose working folder is the case's; errors of the user's that
            saplab refuses leave it as `ValueError` or `OSError`, and an `AssertionError` is a wrong number.
        right: the exit codes that are right: 0, and 2 where `ValueError` and `OSError` may come.
        lines: the most lines that an error may write to stderr.
    """

    text: str
    run: Callable[[], object]
    right: frozenset[int] = frozenset({0, 2})


Generator = Callable[[random.Random, Path], Case]
GENERATORS: dict[str, Generator] = {}


def generator(make: Generator) -> Generator:
    """Register a function that writes an input into a folder and returns it as a case."""
    GENERATORS[make.__name__] = make
    return make


def command(*words: str | bytes, right: Iterable[int] = (0, 2)) -> Case:
    """Return the case of a command line, without the name of the program."""
    arguments = [word if isinstance(word, str) else os.fsdecode(word) for word in words]

    def run() -> None:
        from saplab.cli import main

        sys.argv = ["saplab", *arguments]
        main()

    return Case(ascii(arguments), run, frozenset(right))


def call(text: str, function: Callable[[], object], right: Iterable[int] = (0, 2)) -> Case:
    """Return the case of a call of saplab's functions, which asserts what it gets."""

    def run() -> None:
        from saplab.cli.errors import MISTAKE, explain, tell

        try:
            function()
        except (ValueError, OSError) as error:
            tell(f"error: {explain(error)}")
            sys.exit(MISTAKE)

    return Case(text, run, frozenset(right))


class Canary:
    """An object that runs a command when a pickle of it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.folder / CANARY}",)

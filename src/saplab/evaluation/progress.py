"""How far an evaluation is, on a terminal or in a notebook."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Tick = Callable[[int], None]
Show = Callable[[str, int], AbstractContextManager[Tick]]  # of a description and the whole work


@contextmanager
def shown(description: str, total: int) -> Iterator[Tick]:
    """Show a bar on stderr or in a notebook until the context is left; nothing where neither is there."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not (sys.stderr.isatty() or console.is_jupyter):
        yield lambda n: None
        return
    words, percent = TextColumn("{task.description}"), TextColumn("{task.percentage:>3.0f} %")
    with Progress(words, BarColumn(), percent, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(description, total=total)
        yield lambda n: bar.advance(task, n)


@contextmanager
def silent(description: str, total: int) -> Iterator[Tick]:
    """Show nothing."""
    yield lambda n: None

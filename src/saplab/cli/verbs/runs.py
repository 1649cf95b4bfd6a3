"""``saplab runs``: how far runs are, how long they still take, and what failed."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli import options
from saplab.cli.console import Console
from saplab.cli.errors import explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from saplab.runs.progress import Progress

_MOST_LINES = 20  # of curves, failures or problems


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or one that holds several.")],
    as_json: options.Json = False,
) -> None:
    """Show how far runs are.

    Stored cells, time left, what failed, and damaged files; a run may be going on meanwhile. Ends with exit code 1
    where one of several runs cannot be read.
    """
    from saplab.runs import Store
    from saplab.runs.progress import progress_of
    from saplab.system.folder import inside

    console = Console(json=as_json)
    found, unread = [], []
    for root, name in (roots := _folders(folder)):
        try:
            found.append(progress_of(Store.read(inside(root, name, folder=True))))
        except (OSError, ValueError) as error:
            if len(roots) == 1:
                raise
            unread.append(explain(error))
    for progress in found:
        console.say("\n".join(_lines(progress)))
    for line in unread:
        console.say(f"problem: {line}")
    if as_json:
        console.emit_json({"runs": [_record(progress) for progress in found], "problems": unread})
    if unread:
        raise typer.Exit(1)


def _folders(folder: Path) -> list[tuple[Path, str]]:
    """Return the run folders: this one, or those in it; with the names of tables inside the folders of figures."""
    if _is_run(folder) or not folder.is_dir():
        return [(folder, ""), *_tables(folder)]
    paths = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    own = (((path, ""), *_tables(path)) for path in paths)
    return [(root, name) for found in own for root, name in found if _is_run(root / name)] or [(folder, "")]


def _tables(folder: Path) -> list[tuple[Path, str]]:
    from saplab.paper.choice import TABLES

    return [(folder, name) for name in TABLES if _is_run(folder / name)]


def _is_run(folder: Path) -> bool:
    return os.path.lexists(folder / "request.json")


def _lines(progress: "Progress") -> "Iterator[str]":
    yield f"{progress.root}: {progress.title}"
    if progress.command:
        yield f"  {progress.command}"
    share = 100 * progress.stored / progress.total
    where = f" ({progress.engine})" if progress.engine and progress.state != "finished" else ""
    yield f"  {progress.state}{where}, {progress.stored:,} of {progress.total:,} cells ({share:.1f} %){_left(progress)}"
    open_curves = [curve for curve in progress.curves if curve.stored < curve.total]
    yield from _some(f"  {curve.stored}/{curve.total}  {curve.label}" for curve in open_curves)
    yield from _some(
        f"  failed: {one.label}, {progress.ranges} {one.start}..{one.stop}, {one.tries} tries: {one.reason}"
        for one in progress.failures
    )
    yield from _some(f"  problem: {problem}" for problem in progress.problems)


def _left(progress: "Progress") -> str:
    if progress.seconds_left is None:
        return ", time left unknown"
    return f", about {duration(progress.seconds_left)} left" if progress.seconds_left > 0 else ""


def duration(seconds: float) -> str:
    """Write a time for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _some(lines: "Iterable[str]") -> "Iterator[str]":
    """Yield the first lines, and the number of the others."""
    every = list(lines)
    yield from every[:_MOST_LINES]
    if len(every) > _MOST_LINES:
        yield f"  and {len(every) - _MOST_LINES:,} more"


def _record(progress: "Progress") -> dict[str, object]:
    parts = {name: [vars(part) for part in getattr(progress, name)] for name in ("curves", "failures")}
    return {**vars(progress), "root": str(progress.root), **parts}

"""Compute the cells of a request that are missing: an engine's results into a store."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, Final

from saplab.runs.cell import Cell, Group, groups_of
from saplab.runs.engines.base import Engine, Failed, Tick, Workload
from saplab.runs.engines.in_process import InProcess
from saplab.runs.store import Results

_THREADS: Final = 4
_WAITING: Final = 16  # cells that may wait for the disk, before the engine has to


def run(
    store: Results, inputs: Workload, tick: Tick = lambda n: None, engine: Engine | None = None
) -> tuple[Failed, ...]:
    """Compute and save every cell of the store's request that it does not hold yet; a damaged one counts as not held.

    Killed at any moment, a second call goes on with the first group that lacks a cell.

    Args:
        store: what to compute, and where it goes; this process alone writes.
        inputs: what the cells name, and how they are computed.
        tick: called with the work done since the last call, for a progress bar.
        engine: who computes; this process unless another is given.

    Returns:
        The groups that failed, which the store notes as well; the others are saved nevertheless.

    Raises:
        OSError: a result cannot be saved, or the engine cannot work.
    """
    engine = engine or InProcess()
    failed = []
    missing = store.survey().missing
    lacking = {cell.digest for cell in missing}
    outcomes = engine(unfinished(store.request.cells, missing), inputs, tick)
    with store.running(str(engine)), saving(store) as save, closing(outcomes):
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                failed.append(outcome)
                store.note_failure(outcome)
            else:
                for cell, result in zip(outcome.group, outcome.results, strict=True):
                    if cell.digest in lacking:
                        save(cell, result)
    return tuple(failed)


def unfinished(cells: Iterable[Cell], missing: Iterable[Cell]) -> list[Group]:
    """Return the groups of cells of which one is missing: whole, since in a smaller one some sums would be others."""
    lacking = {cell.digest for cell in missing}
    return [group for group in groups_of(cells) if any(cell.digest in lacking for cell in group)]


@contextmanager
def saving(store: Results) -> Iterator[Callable[[Cell, Any], None]]:
    """Save beside the computation, since a save mostly waits for the disk.

    An OSError of a save is raised at the next one, or at the end, which waits until all results are on the disk.
    """
    waiting: deque[Future[None]] = deque()

    def save(cell: Cell, result: Any) -> None:
        while waiting and (waiting[0].done() or len(waiting) >= _WAITING):
            waiting.popleft().result()
        waiting.append(threads.submit(store.save, cell, result))

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="saplab-save") as threads:
        yield save
    for future in waiting:
        future.result()

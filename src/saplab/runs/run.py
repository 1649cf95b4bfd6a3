"""Compute the cells of a request that are missing: an engine's results into a store."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Final, Self

from saplab.runs.cell import groups_of
from saplab.runs.engines.base import Computed, Engine, Failed, Tick, Workload
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
    outcomes = engine(groups_of(store.survey().missing), inputs, tick)
    with store.running(str(engine)), _Saver(store) as saver, closing(outcomes):
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                failed.append(outcome)
                store.note_failure(outcome)
            else:
                saver.save(outcome)
    return tuple(failed)


class _Saver:
    """Saves results beside the computation, since a save mostly waits for the disk.

    Leaving the context waits until all are on the disk. An OSError of a save is raised at the next one, or then.
    """

    def __init__(self, store: Results) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="saplab-save")
        self._waiting: deque[Future[None]] = deque()

    def save(self, outcome: Computed) -> None:
        """Save a group's results soon, and wait where too many wait already."""
        for cell, result in zip(outcome.group, outcome.results, strict=True):
            while self._waiting and (self._waiting[0].done() or len(self._waiting) >= _WAITING):
                self._waiting.popleft().result()
            self._waiting.append(self._threads.submit(self._store.save, cell, result))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True)
        if error is None:
            for future in self._waiting:
                future.result()

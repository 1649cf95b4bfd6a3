"""The one writer of a run: it saves results beside the computation, since a save mostly waits for the disk."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Protocol, Self

from saplab.runs.engines.base import Computed

_THREADS: Final = 4
_WAITING: Final = 16  # cells that may wait for the disk, before the engine has to


class Results(Protocol):
    """Where results are saved, by several threads at a time."""

    def save(self, cell: Any, result: Any) -> None:
        """Write the result of a cell, whole or not at all."""


class Saver:
    """Saves outcomes into a store; leaving the context waits until all are on the disk.

    Raises:
        OSError: of a save, at the next one or when the context is left.
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

"""Rows of a batch shared out over threads that live on between calls.

Kernels release the interpreter's lock, so Python functions on several threads run them side by side: on PyTorch's own
team of threads where that can be had, else on a pool. Numba's layers do not fit a library: the bundled one aborts the
process when two Python threads enter it at once, and OpenMP aborts a forked child.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import torch

from saplab.rng.team import has_team, on_team

GRAIN = 1 << 15  # activations below which a further thread costs more than it gives
LEAST: Final = 1 << 14  # activations of a slice, below which its start would take a good part of its time

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def pool(workers: int) -> ThreadPoolExecutor:
    """Return this process's pool of that many threads."""
    with _lock:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="saplab")
        return _pools[workers]


def _forget_pools() -> None:
    """Start anew in a forked child, whose copies of the pools have no threads behind them."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads, at least 1, inside the context; None leaves it as it is."""
    before = torch.get_num_threads()
    if threads is not None:
        if threads < 1:
            raise ValueError(f"`threads` must be >= 1, got {threads}")
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def over_rows(work: Callable[[int, int], None], rows: int, size: int) -> None:
    """Call `work(start, stop)` on slices of `rows` rows of `size` elements, over `torch.get_num_threads()` threads.

    The calling thread works too. Each thread takes the next slice when it is done with one, as another may be late. An
    exception of any slice is raised when no other slice is worked on any more.
    """
    useful = max(1, min(torch.get_num_threads(), rows, rows * size // GRAIN))
    if useful == 1:
        work(0, rows)
        return
    slices = deque(_shrinking_slices(rows, useful, -(-LEAST // size)))

    def part() -> None:
        try:
            _work_off(slices, work)
        except BaseException:
            slices.clear()
            raise

    # a team of another size than PyTorch's would be built anew by each
    errors = on_team(part, torch.get_num_threads()) if has_team() else _on_pool(part, useful - 1)
    if errors:
        raise errors[0]


def _shrinking_slices(rows: int, threads: int, least: int) -> Iterator[tuple[int, int]]:
    """Yield slices of rows, each a thread's share of half of what is left: threads that start apart end together."""
    start = 0
    while start < rows:
        stop = min(rows, start + max(least, (rows - start) // (2 * threads)))
        yield start, stop
        start = stop


def _on_pool(part: Callable[[], None], others: int) -> list[BaseException]:
    """Call `part()` on that many threads and the calling one; return what they raised."""
    futures = [pool(others).submit(part) for _ in range(others)]
    try:
        part()
    except BaseException as error:
        return [error, *_raised(futures)]
    return _raised(futures)


def _raised(futures: list[Future[None]]) -> list[BaseException]:
    errors = (None if future.cancel() else future.exception() for future in futures)
    return [error for error in errors if error is not None]


def _work_off(slices: deque[tuple[int, int]], work: Callable[[int, int], None]) -> None:
    while True:
        try:
            start, stop = slices.popleft()
        except IndexError:
            return
        work(start, stop)

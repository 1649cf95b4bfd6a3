"""Threads that live on between calls, and rows of a batch shared out over them.

Kernels release the interpreter's lock, so plain Python threads run them side by side. Numba's own layers do not fit a
library: the bundled one aborts the process when two Python threads enter it at once, and OpenMP aborts a forked child.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

GRAIN = 1 << 15  # activations below which a further thread costs more than it gives
SLICES = 4  # per thread

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


def over_rows(work: Callable[[int, int], None], rows: int, size: int) -> None:
    """Call `work(start, stop)` on slices of `rows` rows of `size` elements, over `torch.get_num_threads()` threads.

    The calling thread works too. Each thread takes the next slice when it is done with one, as another may be late:
    PyTorch's own threads spin for milliseconds after their last task. An exception of any slice is raised.
    """
    threads = max(1, min(torch.get_num_threads(), rows, rows * size // GRAIN))
    if threads == 1:
        work(0, rows)
        return
    count = min(rows, threads * SLICES)
    slices = deque(pairwise(rows * k // count for k in range(count + 1)))
    others = [pool(threads - 1).submit(_work_off, slices, work) for _ in range(threads - 1)]
    try:
        _work_off(slices, work)
    finally:
        slices.clear()
        errors = [None if future.cancel() else future.exception() for future in others]
    for error in errors:
        if error is not None:
            raise error


def _work_off(slices: deque[tuple[int, int]], work: Callable[[int, int], None]) -> None:
    while True:
        try:
            start, stop = slices.popleft()
        except IndexError:
            return
        work(start, stop)

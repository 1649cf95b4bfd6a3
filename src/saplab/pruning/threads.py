"""Rows of a batch over threads: a pool of our own, around kernels that release the interpreter's lock.

Numba's own layers do not fit a library: the bundled one aborts the process when two Python threads enter it at once,
OpenMP aborts a forked child. A plain pool has neither problem. It belongs to one process: a forked child, whose
copy of the pool has no threads behind it, makes its own.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

GRAIN = 1 << 15  # activations below which a further thread costs more than it gives

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def _forget_pools() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def _pool(workers: int) -> ThreadPoolExecutor:
    with _lock:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="saplab-rows")
        return _pools[workers]


def over_rows(work: Callable[[int, int], None], rows: int, size: int) -> None:
    """Call `work(start, stop)` on slices of `rows` rows of `size` elements, over `torch.get_num_threads()` threads.

    The calling thread takes the first slice itself. An exception of any slice is raised.
    """
    threads = max(1, min(torch.get_num_threads(), rows, rows * size // GRAIN))
    if threads == 1:
        work(0, rows)
        return
    bounds = [rows * t // threads for t in range(threads + 1)]
    pool = _pool(threads - 1)
    others = [pool.submit(work, a, b) for a, b in pairwise(bounds[1:])]
    try:
        work(bounds[0], bounds[1])
    finally:
        errors = [future.exception() for future in others]
    for error in errors:
        if error is not None:
            raise error

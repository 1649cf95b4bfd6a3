"""Examples shared out over threads: each takes its share through the whole network, on a single core.

Parallel loops inside each operation leave cores waiting for one another at the end of each. One worker thread a core,
whose own PyTorch has one thread, waits once a pass. PyTorch's number of threads belongs to the thread that sets it, but
setting it also decides what threads to come begin with; a worker puts that back at once, so that nobody else notices.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Final

import torch
from torch import Tensor, nn

from saplab.defenses.concurrency import may_run_in_threads

Run = Callable[..., tuple[Tensor, ...]]  # rows (M, ...) of some tensors -> tensors (M, ...)

PIECE: Final = 128  # rows at most that a thread takes through the network at once: larger maps leave its cache

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def _forget_pools() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def shared_out(model: nn.Module, run: Run, *columns: Tensor) -> tuple[Tensor, ...]:
    """Give `run(*columns)`, with rows shared out over `torch.get_num_threads()` threads where that is safe.

    The shares depend on the numbers of rows and of threads alone, and so do the bits of the result. Where a share
    fails, all rows are run once more by the calling thread, which then says what is wrong with the whole of them.

    Args:
        model: the network that `run` calls; it must treat each row by itself.
        run: gives tensors with a row for each row of its arguments; sets the gradient mode that it wants.
        columns: tensors with as many rows each.
    """
    count, rows = torch.get_num_threads(), len(columns[0])
    if not 1 < count <= rows or not may_run_in_threads(model, run, columns):
        return run(*columns)
    pieces = count * -(-rows // (count * PIECE))
    shares = list(zip(*(t.tensor_split(pieces) for t in columns), strict=True))
    try:
        parts = _in_workers(count, run, shares)
    except Exception:
        return run(*columns)
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def _in_workers(count: int, run: Run, shares: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """Run each share in a worker; wait for all that have begun, also when one fails or Ctrl-C comes."""
    state = _CallersState()
    futures: list[Future[tuple[Tensor, ...]]] = []
    try:
        for share in shares:
            futures.append(_pool(count).submit(copy_context().run, state.call, run, share))
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


class _CallersState:
    """What PyTorch keeps for each thread, as the thread that makes this has it: autocast and inference mode."""

    def __init__(self) -> None:
        self._enabled = torch.is_autocast_enabled("cpu")
        self._dtype = torch.get_autocast_dtype("cpu")
        self._inference = torch.is_inference_mode_enabled()

    @contextmanager
    def _restored(self) -> Iterator[None]:
        # the cache of autocast's weights is one for all threads, and is emptied by the first to leave
        autocast = torch.autocast("cpu", self._dtype, self._enabled, cache_enabled=False)
        with torch.inference_mode(self._inference), autocast:
            yield

    def call(self, run: Run, share: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run a share in this state."""
        with self._restored():
            return run(*share)


def _pool(workers: int) -> ThreadPoolExecutor:
    with _lock:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, "saplab-shares", _take_one_core)
        return _pools[workers]


def _take_one_core() -> None:
    """Let PyTorch use one thread in the calling one, and leave what threads to come begin with as it is."""
    with _lock:
        everyone = torch.get_num_threads()
        torch.set_num_threads(1)
        _in_a_new_thread(torch.set_num_threads, everyone)


def _in_a_new_thread(function: Callable[[int], Any], argument: int) -> None:
    thread = threading.Thread(target=function, args=(argument,))
    thread.start()
    thread.join()

"""Examples shared out over threads: each thread takes its share through the whole network, on a single core.

Parallel loops inside each operation leave cores waiting for one another at the end of each; whole shares wait once a
pass. The number of PyTorch's threads belongs to the thread that sets it, but also decides what later threads begin
with; a worker restores that at once, so that nobody else notices.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from itertools import chain
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _hooks

from saplab.defenses.dressing import undressed_class
from saplab.defenses.sites import is_announcement
from saplab.defenses.stochastic import takes_whole_batches
from saplab.defenses.surrogate import Surrogate
from saplab.models.identity import attributes
from saplab.rng.threads import pool

Run = Callable[..., tuple[Tensor, ...]]  # rows (M, ...) of some tensors -> tensors (M, ...)
Kinds = tuple[type[nn.Module], ...]

PIECE: Final = 128  # rows at most that a thread takes through the network at once: larger maps leave its cache

_KNOWN: Final = ("torch.nn.modules.", "saplab.")  # packages whose forward passes leave their modules as they are
_DISTRIBUTED: Final = ("torch.nn.parallel.", "torch.distributed.")
_PER_THREAD: Final = "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()

_tried: WeakKeyDictionary[nn.Module, tuple[Kinds, bool]] = WeakKeyDictionary()
_noting: Final = threading.RLock()
_SETATTR: Final = nn.Module.__setattr__


def over_threads(model: nn.Module, run: Run, *columns: Tensor) -> tuple[Tensor, ...]:
    """Return `run(*columns)`, with rows shared out over `torch.get_num_threads()` threads where that is safe.

    The shares, and so the bits of the result, depend only on the numbers of rows and of threads. Where a share fails,
    the calling thread runs all rows again, so that an error speaks of the whole batch.

    Args:
        model: the network that `run` calls; it must treat each row by itself.
        run: returns tensors with a row for each row of its arguments; sets the gradient mode that it wants.
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
    work = _as_the_caller(run)
    futures: list[Future[tuple[Tensor, ...]]] = []
    try:
        for share in shares:
            futures.append(pool(count).submit(copy_context().run, work, *share))
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def _as_the_caller(run: Run) -> Run:
    """Return `run` for workers: on one core, with the autocast and inference mode of the thread that calls this."""
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    dtype, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def work(*share: Tensor) -> tuple[Tensor, ...]:
        _take_one_core(threads)
        # the cache of autocast's weights is one for all threads, and is emptied by the first to leave
        with torch.inference_mode(inference), torch.autocast("cpu", dtype, enabled, cache_enabled=False):
            return run(*share)

    return work


def _take_one_core(others: int) -> None:
    """Let PyTorch use one thread in the calling one; threads to come begin with `others` as before."""
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        newcomer = threading.Thread(target=torch.set_num_threads, args=(others,))
        newcomer.start()
        newcomer.join()


def may_run_in_threads(model: nn.Module, run: Run, columns: Sequence[Tensor]) -> bool:
    """Return whether several threads at once may call `run`, which calls `model` with rows of `columns`.

    They may on the CPU, without compiled parts, foreign hooks, a profiler or a mode of PyTorch
    around the caller, which other threads would not see. Modules of other packages, or in training mode, are tried once
    on two single rows: they must set no attribute, and leave objects, containers, buffers and generators as they were.
    """
    modules = list(model.modules())
    tensors = chain(columns, model.parameters(), model.buffers())
    plain = _PER_THREAD and _nobody_looks_on() and all(map(_is_plain, modules)) and all(t.is_cpu for t in tensors)
    if not plain or all(map(_is_known, modules)):
        return plain
    kinds = tuple(map(type, modules))
    if _tried.get(model, ((), False))[0] != kinds:
        _tried[model] = kinds, _leaves_no_trace(model, modules, run, columns)
    return _tried[model][1]


def _nobody_looks_on() -> bool:
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        or torch._C._autograd._profiler_enabled()
        or _hooks._has_any_global_hook()
    )


def _is_known(module: nn.Module) -> bool:
    """Return whether the forward pass below the one that `defend` adds is PyTorch's or saplab's own code."""
    own: type = next(kind for kind in undressed_class(module).__mro__ if "forward" in vars(kind))
    replaced = "forward" in vars(module) or getattr(module, "_saplab_forward", None) is not None
    known = own.__module__.startswith(_KNOWN) and own is not Surrogate
    return known and not replaced and not module.training


def _is_plain(module: nn.Module) -> bool:
    hooks: tuple[Any, ...] = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return not (
        isinstance(module, torch.jit.ScriptModule)
        or takes_whole_batches(module)
        or type(module).__module__.startswith(_DISTRIBUTED)
        or hasattr(module, "_orig_mod")
        or module._compiled_call_impl is not None
        or module._backward_hooks
        or module._backward_pre_hooks
        or not all(map(is_announcement, hooks))
    )


def _leaves_no_trace(model: nn.Module, modules: Sequence[nn.Module], run: Run, columns: Sequence[Tensor]) -> bool:
    """Return whether passes over two single rows write nothing: what two threads hold at once would be mixed up."""
    generator = torch.default_generator.get_state()
    with torch.random.fork_rng(devices=[]), _noting_writes(modules) as written:
        before = _state(model, modules)
        try:
            for row in (slice(1), slice(-1, None)):
                run(*(t[row] for t in columns))
                if written or _state(model, modules) != before:
                    return False
        except Exception:
            return False  # whoever runs all rows will tell
        return torch.equal(generator, torch.default_generator.get_state())


@contextmanager
def _noting_writes(modules: Sequence[nn.Module]) -> Iterator[list[str]]:
    """Note the names of attributes that are set on the modules inside, also of those that are put back."""
    written: list[str] = []
    own, usual = set(map(id, modules)), _SETATTR

    def noting(module: nn.Module, name: str, value: Any) -> None:
        if id(module) in own and not name.startswith("_saplab"):
            written.append(name)
        usual(module, name, value)

    with _noting:  # one at a time, as all modules share the method
        nn.Module.__setattr__ = noting  # type: ignore[method-assign, assignment]
        try:
            yield written
        finally:
            nn.Module.__setattr__ = usual  # type: ignore[method-assign]


def _state(model: nn.Module, modules: Sequence[nn.Module]) -> Any:
    """Return what a pass may write: attributes and what they hold, the user's own globals, generators, buffers."""
    held = {name: text for name, text in attributes(model).items() if "_saplab" not in name}
    generators = [
        value.get_state().numpy().tobytes()
        for module in modules
        for value in vars(module).values()
        if isinstance(value, torch.Generator)
    ]
    tensors = [(id(tensor), None if tensor.is_inference() else tensor._version) for tensor in model.buffers()]
    return held, generators, tensors

"""The engine of a Ray cluster: groups as tasks, networks and data through Ray's object store, results to the driver."""

import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch

from saplab.runs.cell import Group
from saplab.runs.engines.base import (
    TRIES,
    Engine,
    Options,
    Outcome,
    Queue,
    Tick,
    Trouble,
    Workload,
    register_engine,
    trouble_of,
)
from saplab.runs.engines.parcel import Parcel, compute, pack, pickled, unpack
from saplab.runs.engines.private_ray import private_ray
from saplab.system.machine import usable_cores
from saplab.system.memory import keep_freed_memory

_WAIT_SECONDS: Final = 1.0
_KNOCK_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 5.0  # between looks at the cluster's size
_AT_ONCE: Final = 64  # results that are fetched together
_AHEAD: Final = 2  # tasks submitted for each that can run, so that none waits for the driver
_PYTHON: Final = Path(os.__file__).resolve().parent  # of the standard library


@dataclass(frozen=True)
class RayCluster:
    """The engine of a Ray cluster.

    Each group is a task that takes `threads` cores, and a GPU or a part of one where `device` is ``cuda``. A worker
    process loads the networks once. No disk is shared: results come back to the driver, which saves them. Tasks whose
    worker or node dies are tried again, and no more of them are submitted than the cluster can soon run.

    Attributes:
        address: of a cluster that is there (``auto``, ``HOST:6379``); None starts one on this machine for the run.
        workers: groups that are computed at once; None for as many as there is room for.
        threads: of PyTorch in a task.
        device: ``cpu`` or ``cuda``.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    device: str = "cpu"

    def __call__(self, todo: Sequence[Group], inputs: Workload, tick: Tick) -> Generator[Outcome]:
        """Compute the groups, in the order in which they become ready; see `Engine`.

        Raises:
            ValueError: Ray is not installed, something cannot be sent, or no node has so many cores or a GPU.
            ConnectionError: no cluster answers at the address, or Ray does not start.
        """
        ray = import_ray()
        ours = not ray.is_initialized()
        with self._connected(ray) as most:
            parcel, task = ray.put(pack(inputs, _dumps)), self._task(ray)

            def submit(group: Group) -> Any:
                return task.remote(pickled(group, _dumps), parcel, self.threads, self.device)

            yield from drive(Queue(todo, tick), submit, self._room(ray, most), cancel=not ours)

    def __str__(self) -> str:
        return f"Ray at {self.address}" if self.address else "Ray on this machine"

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[int | None]:
        """Use this process's connection, or make one for the run; yield the most tasks to submit, None for no limit."""
        if ray.is_initialized():
            yield self.workers
            return
        cores = self.workers * self.threads if self.workers else max(usable_cores(), self.threads)
        place = nullcontext({"address": self.address}) if self.address else private_ray(ray, cores)
        with place as settings:
            ray._private.worker._worker_logs_enabled = False  # else deaths, which are handled, are told on stdout
            try:
                self._connect(ray, settings)
                yield self.workers if self.address or not self.workers else _AHEAD * self.workers
            finally:
                ray.shutdown()
                ray._private.worker._worker_logs_enabled = True

    def _connect(self, ray: Any, settings: Mapping[str, Any]) -> None:
        if self.address:
            _knock(self.address)
        job = {} if (self.address or "").startswith("ray://") else {"job_config": _job(ray)}
        for last in [False] * (TRIES - 1) + [True]:
            try:
                ray.init(log_to_driver=False, logging_level="ERROR", **settings, **job)
                return
            except Exception as error:  # Ray's own: other versions of it or of Python, a machine too busy to start it
                ray.shutdown()
                if last or self.address:
                    raise ConnectionError(f"{self} cannot be used: {error}") from error

    def _task(self, ray: Any) -> Any:
        """Return the task with what it needs."""
        gpus = ray.cluster_resources().get("GPU", 0)
        if self.device != "cpu" and not gpus:
            raise ValueError(f"`device` {self.device} needs a cluster with GPUs, this one has none")
        able = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        able = able if self.device == "cpu" else [found for found in able if found.get("GPU", 0)]
        cores = max((found.get("CPU", 0) for found in able), default=0)
        if 0 < cores < self.threads:
            node = "node" if self.device == "cpu" else "node with a GPU"
            raise ValueError(
                f"`threads` must be at most {cores:g}, the cores of the largest {node}, got {self.threads}"
            )
        share = 1 / ceil(max(self.workers or 1, gpus) / gpus) if self.device != "cpu" else 0.0
        needs = {"num_cpus": self.threads, "num_gpus": share}
        return ray.remote(max_retries=0, max_calls=0, **needs)(_compute)  # processes live on, on GPUs as well

    def _room(self, ray: Any, most: int | None) -> Callable[[], int]:
        """Return a function that tells how many tasks may be on their way: some more than can run now."""

        @lru_cache(maxsize=1)
        def room(period: int) -> int:
            found = ray.cluster_resources()
            slots = found.get("CPU", 0) // self.threads if self.device == "cpu" else found.get("GPU", 0)
            return _AHEAD * max(1, int(slots))

        return lambda: room(int(time.monotonic() // _LOOK_SECONDS)) if most is None else most


@register_engine("ray")
def ray_cluster(options: Options) -> Engine:
    """Make the engine of a Ray cluster, whose tasks cannot choose one GPU among several."""
    if options.device not in ("cpu", "cuda"):
        raise ValueError(f"`device` of a Ray cluster's tasks must be auto, cpu or cuda, got {options.device!r}")
    import_ray()
    return RayCluster(options.address, options.workers, options.share, options.device)


def _job(ray: Any) -> Any:
    """Return a job whose workers look for modules where they are installed.

    Else Ray puts the driver's working folder and that of its script first; `unpack` adds the former, as the last.
    """
    job = ray.job_config.JobConfig()
    job._runtime_env_has_working_dir = lambda: True
    return job


def _knock(address: str) -> None:
    """Refuse an address at which nothing listens, where Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # such as auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from None


def import_ray() -> Any:
    """Return the module of Ray, which is an extra, or raise a ValueError that says how to install it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing here asks the internet
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else `uv run` uploads the whole working folder
    try:
        import ray
    except ImportError:
        raise ValueError("`engine` ray needs Ray: pip install 'saplab[cluster]'") from None
    return ray


def drive(queue: Queue, submit: Callable[[Group], Any], room: Callable[[], int], cancel: bool) -> Generator[Outcome]:
    """Keep the cluster busy with a queue, and yield the outcomes.

    Args:
        queue: what to compute.
        submit: starts a group's task, and returns Ray's reference to its results.
        room: how many tasks may be submitted and not yet ready.
        cancel: whether to end the tasks that are left when the generator is closed. The end of a connection ends them
            too, and Ray may crash where it is asked for both.
    """
    ray = import_ray()
    pending: dict[Any, Group] = {}
    try:
        while queue or pending:
            while len(pending) < room() and (group := queue.take()) is not None:
                pending[submit(group)] = group
            ready = _ready(ray, list(pending))
            for reference, found in zip(ready, _fetch(ray, ready), strict=True):
                if (outcome := queue.settle(pending.pop(reference), found)) is not None:
                    yield outcome
    finally:
        for reference in pending if cancel else ():
            ray.cancel(reference, force=True)


def _ready(ray: Any, references: list[Any]) -> list[Any]:
    """Wait until a task is ready, for a while, and return all that are, up to a bound."""
    ready, _ = ray.wait(references, timeout=_WAIT_SECONDS, fetch_local=False)
    if ready:
        ready, _ = ray.wait(references, num_returns=min(len(references), _AT_ONCE), timeout=0, fetch_local=False)
    return ready  # type: ignore[no-any-return]


def _fetch(ray: Any, references: list[Any]) -> list[Sequence[Any] | Trouble]:
    """Get the results of tasks, all at once if none of them failed."""
    try:
        return ray.get(references)  # type: ignore[no-any-return]
    except ray.exceptions.RayError as error:
        if len(references) > 1:
            return [found for reference in references for found in _fetch(ray, [reference])]
        reason = str(error).strip().partition("\n")[0]
        return [Trouble(f"{type(error).__name__}: {reason}", str(error))]


_loaded: dict[str, Workload] = {}  # in a worker process: the parcel that it computes with


def _compute(group: bytes, parcel: Parcel, threads: int, device: str) -> Sequence[Any] | Trouble:
    """Compute a group in a worker process."""
    try:
        torch.set_num_threads(threads)
        if parcel.name not in _loaded:
            keep_freed_memory()
            _loaded.clear()
            _loaded[parcel.name] = unpack(parcel, device)
    except Exception as error:  # Ray would wrap it
        return trouble_of(error)
    return compute(group, _loaded[parcel.name])


def _dumps(value: Any) -> bytes:
    """Pickle with the code of modules that are not installed, which other nodes do not have."""
    pickler: Any = import_ray().cloudpickle
    own = _own_modules(len(sys.modules))
    for module in own:
        pickler.register_pickle_by_value(module)
    try:
        return pickler.dumps(value)  # type: ignore[no-any-return]
    finally:
        for module in own:
            pickler.unregister_pickle_by_value(module)


@lru_cache(maxsize=1)
def _own_modules(count: int) -> list[ModuleType]:
    """Return the modules that are not installed, looked for anew whenever the number of all modules has changed."""
    return [module for module in list(sys.modules.values()) if _is_own(module)]


def _is_own(module: ModuleType) -> bool:
    name, file = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    if not file or name.partition(".")[0] in ("saplab", "__main__", "__mp_main__"):
        return False
    path = Path(file).resolve()
    return not path.is_relative_to(_PYTHON) and not {"site-packages", "dist-packages"} & set(path.parts)

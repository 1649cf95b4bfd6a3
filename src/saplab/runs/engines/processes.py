"""The engine of several processes on this machine; each holds the networks and data, and computes a group at a time."""

import os
import pickle
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
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
from saplab.runs.engines.in_process import InProcess
from saplab.runs.engines.parcel import compute, pack, pickled, unpack
from saplab.system.memory import keep_freed_memory
from saplab.system.words import counted

_READY: Final = "ready"
_SAFE_PATH: Final = "PYTHONSAFEPATH"  # without it, a new process looks for all modules in the working folder first
_spawn = get_context("spawn")


@dataclass(frozen=True)
class Workers:
    """The engine of `count` new processes with `threads` threads of PyTorch each; GPUs are used in turn.

    A process that dies is replaced, and its group tried again. The processes end with the generator, and within a
    moment of the driver, however that ends.
    """

    count: int
    threads: int

    def __call__(self, todo: Sequence[Group], inputs: Workload, tick: Tick) -> Generator[Outcome]:
        """Compute the groups, the first that is ready first; see `Engine`.

        Raises:
            ValueError: a network, a defence or an attack cannot be sent.
            ChildProcessError: processes cannot begin to work.
        """
        gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count())] if inputs.device == "cuda" else []
        parcel = pickle.dumps(pack(inputs), protocol=5)
        crew = _Crew(Queue(todo, tick), parcel, self.threads, gpus or [inputs.device])
        try:
            for number in range(min(self.count, len(todo))):
                crew.add(number)
            while crew.busy:
                yield from crew.listen()
        finally:
            crew.end()

    def __str__(self) -> str:
        return f"{counted(self.count, 'worker process', 'worker processes')}, {counted(self.threads, 'thread')} each"


@register_engine("local")
def local(options: Options) -> Engine:
    """Make the engine of this machine: this process alone, or worker processes."""
    if options.address is not None:
        raise ValueError(f"`address` is for `engine` ray, got {options.address!r} with local")
    return InProcess() if options.workers is None else Workers(options.workers, options.share)


@dataclass
class _Worker:
    """A process, the pipe to it, and the group that it has; None until it is ready."""

    number: int
    process: SpawnProcess
    pipe: Connection
    group: Group | None = None

    def hear(self) -> Any:
        """Return what the process says; None if it has died."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(1)  # for its own exit code
            return None


@dataclass
class _Crew:
    """The processes that are there, by their pipes; they take the devices in turn."""

    queue: Queue
    parcel: bytes
    threads: int
    devices: Sequence[str]
    workers: dict[Any, _Worker] = field(default_factory=dict)
    stillborn: int = 0  # processes in a row that died before they were ready

    def add(self, number: int) -> None:
        mine, theirs = _spawn.Pipe()
        device = self.devices[number % len(self.devices)]
        process = _spawn.Process(target=_serve, args=(theirs, self.threads, device), daemon=True)
        with _alone():
            process.start()
        theirs.close()
        threading.Thread(target=_send, args=(mine, self.parcel), daemon=True).start()
        self.workers[mine] = _Worker(number, process, mine)

    @property
    def busy(self) -> bool:
        """Return whether there are groups to wait for."""
        return bool(self.queue) or any(worker.group for worker in self.workers.values())

    def listen(self) -> Iterator[Outcome]:
        """Wait until processes say something or die, and yield what comes of it."""
        for pipe in connection.wait(list(self.workers)):
            worker = self.workers[pipe]
            said = worker.hear()
            if worker.group is None:
                self._greet(worker, said)
                continue
            outcome = self.queue.settle(worker.group, said or Trouble(f"its process died ({self._end(worker)})"))
            if said:
                self._give(worker)
            elif self.queue:
                self.add(worker.number)
            if outcome is not None:
                yield outcome

    def _greet(self, worker: _Worker, said: Any) -> None:
        """Take a worker's first word: that it is ready, or why it cannot be."""
        if isinstance(said, Trouble):
            raise ChildProcessError(f"a worker process cannot load the networks: {said.reason}")
        self.stillborn = 0 if said else self.stillborn + 1
        if said:
            self._give(worker)
            return
        ending = self._end(worker)
        if self.stillborn == TRIES:
            raise ChildProcessError(f"worker processes die before they can work ({ending}); try fewer of them")
        self.add(worker.number)

    def _give(self, worker: _Worker) -> None:
        """Send a worker the next group, or end it."""
        worker.group = self.queue.take()
        if worker.group is None:
            self._end(worker)
            return
        group = pickled(worker.group)
        with suppress(OSError):  # it has just died: the next wait tells
            worker.pipe.send_bytes(group)

    def _end(self, worker: _Worker) -> str:
        """End a process that may have died already, and return how it ended."""
        del self.workers[worker.pipe]
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        code = worker.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def end(self) -> None:
        """End all processes at once: they hold nothing that is not computed again."""
        for worker in list(self.workers.values()):
            self._end(worker)


def _send(pipe: Connection, parcel: bytes) -> None:
    """Send what a process needs first; in a thread, as it is read only when the process has started."""
    with suppress(OSError):
        pipe.send_bytes(parcel)


@contextmanager
def _alone() -> Iterator[None]:
    """Start processes that leave Ctrl-C, which the terminal sends to all, and the working folder's modules alone."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if masked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        if before is None:
            del os.environ[_SAFE_PATH]


def _serve(pipe: Connection, threads: int, device: str) -> None:
    """Be a worker: compute the groups that come, until the driver ends this process or itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(threads)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # which code of the user's may call cuda alone
    try:
        inputs = unpack(pickle.loads(pipe.recv_bytes()), device)
    except Exception as error:  # whatever loading somebody's network raises
        pipe.send(trouble_of(error))
        return
    pipe.send(_READY)
    while True:
        pipe.send(compute(pipe.recv_bytes(), inputs))


def _end_with_driver() -> None:
    driver = parent_process()
    if driver is not None:
        connection.wait([driver.sentinel])
        os._exit(1)

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

from saplab.runs.cell import Group, work_of
from saplab.runs.engines.base import (
    TRIES,
    Computed,
    Engine,
    Options,
    Outcome,
    Queue,
    Tick,
    Trouble,
    Try,
    Workload,
    register_engine,
    trouble_of,
)
from saplab.runs.engines.in_process import InProcess
from saplab.runs.engines.parcel import pack, unpack
from saplab.system.memory import keep_freed_memory
from saplab.system.words import counted

_READY: Final = "ready"
_spawn = get_context("spawn")


@dataclass(frozen=True)
class Workers:
    """The engine of `count` new processes with `threads` threads of PyTorch each; GPUs are used in turn.

    A process that dies is replaced, and its group tried again. The processes end with the generator, and within a
    moment of the driver, however that ends.

    Raises:
        ValueError: if a network cannot be sent.
        ChildProcessError: if processes cannot begin to work.
    """

    count: int
    threads: int

    def __call__(self, todo: Sequence[Group], inputs: Workload, tick: Tick) -> Generator[Outcome]:
        """Compute the groups, the first that is ready first; see `Engine`."""
        crew = _Crew(Queue(todo), pickle.dumps(pack(inputs), protocol=5), self.threads, _places(inputs.device))
        try:
            for number in range(min(self.count, len(todo))):
                crew.add(number)
            while crew.busy:
                for outcome in crew.listen():
                    if isinstance(outcome, Computed):
                        tick(work_of(outcome.group))
                    yield outcome
        finally:
            crew.end()

    def __str__(self) -> str:
        return f"{counted(self.count, 'worker process', 'worker processes')}, {counted(self.threads, 'thread')} each"


@register_engine("local")
def local(options: Options) -> Engine:
    """Make the engine of this machine: this process alone, or worker processes.

    Raises:
        ValueError: an address, which belongs to clusters.
    """
    if options.address is not None:
        raise ValueError(f"`address` is for `engine` ray, got {options.address!r} with local")
    return InProcess() if options.workers is None else Workers(options.workers, options.share)


@dataclass
class _Worker:
    """A process, the pipe to it, and the try that it has; None until it is ready."""

    number: int
    process: SpawnProcess
    pipe: Connection
    attempt: Try | None = None


@dataclass
class _Crew:
    """The processes that are there, by their pipes.

    Args:
        queue: where their tries come from.
        parcel, threads: what each gets.
        devices: theirs in turn.
    """

    queue: Queue
    parcel: bytes
    threads: int
    devices: Sequence[str]
    workers: dict[Any, _Worker] = field(default_factory=dict)
    stillborn: int = 0  # processes in a row that died before they were ready

    def add(self, number: int) -> None:
        """Start a process."""
        mine, theirs = _spawn.Pipe()
        device = self.devices[number % len(self.devices)]
        process = _spawn.Process(target=_serve, args=(theirs, self.threads, device), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()
        threading.Thread(target=_send, args=(mine, self.parcel), daemon=True).start()
        self.workers[mine] = _Worker(number, process, mine)

    @property
    def busy(self) -> bool:
        """Return whether there are groups to wait for; a process that only begins is not waited for."""
        return bool(self.queue) or any(worker.attempt for worker in self.workers.values())

    def listen(self) -> Iterator[Outcome]:
        """Wait until processes say something or die, and give what comes of it."""
        for pipe in connection.wait(list(self.workers)):
            worker = self.workers[pipe]
            said = _hear(worker)
            if worker.attempt is None:
                self._greet(worker, said)
                continue
            outcome = self.queue.settle(worker.attempt, said or Trouble(f"its process died ({self._end(worker)})"))
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
        if said:
            self.stillborn = 0
            self._give(worker)
            return
        ending = self._end(worker)
        self.stillborn += 1
        if self.stillborn == TRIES:
            raise ChildProcessError(f"worker processes die before they can work ({ending}); try fewer of them")
        self.add(worker.number)

    def _give(self, worker: _Worker) -> None:
        """Return a worker the next group, or end it."""
        worker.attempt = self.queue.take()
        if worker.attempt is None:
            self._end(worker)
            return
        with suppress(OSError):  # it has just died: the next wait tells
            worker.pipe.send(worker.attempt.group)

    def _end(self, worker: _Worker) -> str:
        """End a process that may have died already, and say how it ended."""
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


def _places(device: str) -> Sequence[str]:
    """Return the devices to use in turn: all GPUs where `device` means any."""
    return [f"cuda:{k}" for k in range(torch.cuda.device_count())] if device == "cuda" else [device]


def _hear(worker: _Worker) -> Any:
    """Receive what a process says; None if it has died."""
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(1)  # for its own exit code
        return None


def _send(pipe: Connection, parcel: bytes) -> None:
    """Send what a process needs first; in a thread, as it is read only when the process has started."""
    with suppress(OSError):
        pipe.send_bytes(parcel)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that never see Ctrl-C, which the terminal sends to all: ending them is the driver's task."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, threads: int, device: str) -> None:
    """Be a worker: compute the groups that come, until the driver ends this process or itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        inputs = unpack(pickle.loads(pipe.recv_bytes()), device)
    except Exception as error:  # whatever loading somebody's network raises
        pipe.send(trouble_of(error))
        return
    pipe.send(_READY)
    while True:
        pipe.send(_compute(pipe.recv(), inputs))


def _end_with_driver() -> None:
    driver = parent_process()
    if driver is not None:
        connection.wait([driver.sentinel])
        os._exit(1)


def _compute(group: Group, inputs: Workload) -> Sequence[Any] | Trouble:
    try:
        return inputs.compute(group, lambda n: None)
    except Exception as error:
        return trouble_of(error)

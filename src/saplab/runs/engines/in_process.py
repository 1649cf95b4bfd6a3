"""The engine that computes in this process, and `run`: an engine's results into a store."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from saplab.runs.engines.base import Engine, Failed, Group, Outcome, Queue, Tick, Trouble, Try, Workload, trouble_of
from saplab.runs.record import note_failure, running
from saplab.runs.saving import Results, Saver


class RunStore(Results, Protocol):
    """What `run` fills: the stored results of a request, in the folder `root`."""

    @property
    def root(self) -> Path:
        """Give the run's folder."""

    def missing(self) -> Sequence[Any]:
        """Give the cells that still have to be computed."""


@dataclass(frozen=True)
class InProcess:
    """The engine that computes in this process."""

    def __call__(self, todo: Sequence[Group], inputs: Workload, tick: Tick) -> Generator[Outcome]:
        """Compute one group after the other; see `Engine`."""
        queue = Queue(todo)
        while (attempt := queue.take()) is not None:
            if (outcome := queue.settle(attempt, _try(attempt, inputs, tick))) is not None:
                yield outcome

    def __str__(self) -> str:
        return "in process"


def _try(attempt: Try, inputs: Workload, tick: Tick) -> Sequence[Any] | Trouble:
    """Compute a group; take back the ticks of a try that fails."""
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        tick(n)

    try:
        return inputs.compute(attempt.group, count)
    except Exception as error:
        tick(-done)
        return trouble_of(error)


def run(
    store: RunStore, inputs: Workload, tick: Tick = lambda n: None, engine: Engine | None = None
) -> tuple[Failed, ...]:
    """Compute and save every cell of the store's request that it does not hold yet; a damaged one counts as not held.

    Killed at any moment, a second call goes on with the first group that lacks a cell.

    Args:
        store: what to compute, and where it goes; this process alone writes.
        inputs: what the cells name, and how they are computed.
        tick: called with the work done since the last call, for a progress bar.
        engine: who computes; this process unless another is given.

    Returns:
        The groups that failed, which are noted in the folder as well; the others are saved nevertheless.

    Raises:
        OSError: if a result cannot be saved, or the engine cannot work.
    """
    engine = engine or InProcess()
    failed = []
    outcomes = engine(inputs.groups(store.missing()), inputs, tick)
    with running(store.root, str(engine)), Saver(store) as saver, closing(outcomes):
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                failed.append(outcome)
                note_failure(store.root, outcome)
            else:
                saver.save(outcome)
    return tuple(failed)

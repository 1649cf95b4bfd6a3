"""The engine that computes in this process."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from saplab.runs.cell import Group
from saplab.runs.engines.base import Outcome, Queue, Tick, Trouble, Workload, trouble_of


@dataclass(frozen=True)
class InProcess:
    """The engine that computes in this process, one group after the other."""

    def __call__(self, todo: Sequence[Group], inputs: Workload, tick: Tick) -> Generator[Outcome]:
        """Compute the groups; see `Engine`."""
        queue = Queue(todo)
        while (group := queue.take()) is not None:
            if (outcome := queue.settle(group, _try(group, inputs, tick))) is not None:
                yield outcome

    def __str__(self) -> str:
        return "in process"


def _try(group: Group, inputs: Workload, tick: Tick) -> Sequence[Any] | Trouble:
    """Compute a group; take back the ticks of a try that fails."""
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        tick(n)

    try:
        return inputs.compute(group, count)
    except Exception as error:
        tick(-done)
        return trouble_of(error)

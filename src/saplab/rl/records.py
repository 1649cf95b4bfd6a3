"""What is known of a stretch of an agent's training."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class AgentRecord:
    """What is known of a stretch of training when it is over.

    Attributes:
        seconds, steps_per_second: of the stretch with its evaluation, and without it.
        epsilon, lr: at its end.
        loss: mean over its updates; None where there was none.
        games: number of games that ended in it.
        score: mean points of those, as the game counts them, at the ε of training; None where none ended.
        evaluation: points of each game of the evaluation at its end; empty where there was none.
    """

    step: int
    seconds: float
    steps_per_second: float
    epsilon: float
    lr: float
    loss: float | None
    games: int
    score: float | None
    evaluation: tuple[float, ...] = ()


def best_record(history: Sequence[AgentRecord]) -> AgentRecord | None:
    """Return the record with the best mean evaluation, the last of equals; None where nothing was evaluated."""
    return max((r for r in reversed(history) if r.evaluation), key=lambda r: fmean(r.evaluation), default=None)

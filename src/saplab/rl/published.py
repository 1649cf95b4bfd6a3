"""Scores that others published, to compare measured ones with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Published:
    """Mean scores after up to 30 no-ops: random play, a human, DQN and Double DQN after 200 million frames.

    Source: Wang et al. 2016, "Dueling network architectures for deep reinforcement learning", table 2.
    """

    random: float
    human: float
    dqn: float
    ddqn: float


PUBLISHED: Final[Mapping[str, Published]] = {
    "assault": Published(222.4, 742.0, 4280.4, 5393.2),
    "asterix": Published(210.0, 8503.3, 4359.0, 17356.5),
    "bank_heist": Published(14.2, 753.1, 455.0, 1030.6),
    "battle_zone": Published(2360.0, 37187.5, 29900.0, 31700.0),
    "beam_rider": Published(363.9, 16926.5, 8627.5, 13772.8),
    "bowling": Published(23.1, 160.7, 50.4, 68.1),
}

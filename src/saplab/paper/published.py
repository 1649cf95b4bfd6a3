"""Scores and changes that others published, to stand beside measured ones."""

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

# The paper's Table 1: relative change of the mean score, SAP-100 against the original agent, in %, by λ.
PAPER_CHANGES: Final[Mapping[str, Mapping[float, float]]] = {
    "assault": {0: -12.2, 1: 10.4, 2: 9.8, 4: 12.4, 8: 16.6},
    "asterix": {0: -33.4, 1: 13.3, 2: 20.8, 4: 14.0, 8: 7.4},
    "bank_heist": {0: -59.2, 1: 131.7, 2: 204.8, 4: 1760.0, 8: 60.9},
    "battle_zone": {0: -65.8, 1: -22.0, 2: 110.1, 4: 202.6, 8: 134.8},
    "beam_rider": {0: -15.8, 1: 164.5, 2: 92.3},
    "bowling": {0: -4.5, 1: 3425.9},
}

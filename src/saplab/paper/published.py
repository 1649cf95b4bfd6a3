"""Numbers of the SAP paper, to compare measured ones with."""

from collections.abc import Mapping
from typing import Final

# The paper's Table 1: relative change of the mean score, SAP-100 against the original agent, in %, by λ.
PAPER_CHANGES: Final[Mapping[str, Mapping[float, float]]] = {
    "assault": {0: -12.2, 1: 10.4, 2: 9.8, 4: 12.4, 8: 16.6},
    "asterix": {0: -33.4, 1: 13.3, 2: 20.8, 4: 14.0, 8: 7.4},
    "bank_heist": {0: -59.2, 1: 131.7, 2: 204.8, 4: 1760.0, 8: 60.9},
    "battle_zone": {0: -65.8, 1: -22.0, 2: 110.1, 4: 202.6, 8: 134.8},
    "beam_rider": {0: -15.8, 1: 164.5, 2: 92.3},
    "bowling": {0: -4.5, 1: 3425.9},
}

"""The paper's own accuracies in %, where its text states them, to stand beside measured ones."""

from collections.abc import Mapping
from typing import Final

from saplab.runs.cell import Cell

NETWORK: Final = "preact-resnet20-dense"

DENSE_FGSM: Final[Mapping[float, float]] = {0: 89.8, 1: 66.3, 2: 56.4}  # section 4.1
SAP_100_FGSM: Final[Mapping[float, float]] = {0: 83.3, 1: 78.5, 2: 72.7}  # 4.1.1: dense -6.5, +12.2, +16.3
DENSE_ITERATIVE: Final[Mapping[float, float]] = {0: 89.8, 1: 66.3, 2: 50.1, 4: 31.0}  # section 4.5, k = 1
SAP_100_ITERATIVE: Final[Mapping[float, float]] = {0: 83.3, 1: 82.0, 2: 80.2, 4: 76.7}
SAP_100_TRANSFER: Final[Mapping[float, float]] = {0: 83.3, 1: 75.2, 2: 67.0, 4: 50.8}  # iterative on the dense one

FEWEST: Final = 10  # samples, from which a Monte Carlo gradient stands beside that of the paper's 100

_KNOWN: Final = {  # attack, defence, whether the gradient is the undefended network's
    ("fgsm", "", True): DENSE_FGSM,
    ("fgsm", "sap:100", False): SAP_100_FGSM,
    ("iterative", "", True): DENSE_ITERATIVE,
    ("iterative", "sap:100", False): SAP_100_ITERATIVE,
    ("iterative", "sap:100", True): SAP_100_TRANSFER,
}
_SETTINGS: Final = {"backward": "mask", "average": "loss", "loss": "cross-entropy", "step": 1.0}


def paper_accuracies(cell: Cell) -> Mapping[float, float]:
    """Give the paper's numbers for a cell like one of the paper's, by strength; none for any other."""
    defender, adversary = cell.defender, cell.adversary
    if defender.model != NETWORK or adversary.defense not in ("", defender.defense) or defender.sites:
        return {}
    if any(cell.attack.get(name, value) != value for name, value in _SETTINGS.items()):
        return {}
    if cell.attack["name"] == "fgsm" and defender.defense and cell.attack["samples"] < FEWEST:
        return {}
    return _KNOWN.get((cell.attack["name"], defender.defense, not adversary.defense), {})

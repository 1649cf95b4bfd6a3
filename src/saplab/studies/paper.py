"""The paper's own accuracies in %, where its text states them, to stand beside measured ones."""

from collections.abc import Mapping
from typing import Final

from saplab.studies.cell import Cell

NETWORK: Final = "preact-resnet20-dense"

DENSE_FGSM: Final[Mapping[float, float]] = {0: 89.8, 1: 66.3, 2: 56.4}  # section 4.1
SAP_100_FGSM: Final[Mapping[float, float]] = {0: 83.3, 1: 78.5, 2: 72.7}  # 4.1.1: dense -6.5, +12.2, +16.3


def paper_accuracies(cell: Cell) -> Mapping[float, float]:
    """Give the paper's numbers for a cell like one of the paper's, by strength; none for any other."""
    if cell.defender.model != NETWORK or cell.adversary != cell.defender or cell.attack["name"] != "fgsm":
        return {}
    if cell.attack["backward"] != "mask" or cell.attack["average"] != "loss" or cell.defender.sites:
        return {}
    return {"": DENSE_FGSM, "sap:100": SAP_100_FGSM}.get(cell.defender.defense, {})

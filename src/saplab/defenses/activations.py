"""Defences that act on activation maps, at the sites that a forward pass calls."""

from dataclasses import dataclass

from torch import Tensor

from saplab.defenses.drawing import Drawing
from saplab.pruning.operator import prune


@dataclass(frozen=True)
class SAP:
    """Stochastic Activation Pruning (Dhillon et al. 2018, Algorithm 1).

    Args:
        percent: categorical draws per 100 activations of a site, with replacement; may exceed 100. r = floor(percent
            · a / 100), as in the authors' code.

    Raises:
        ValueError: `percent` is not above 0.
    """

    percent: float = 100.0

    def __post_init__(self) -> None:
        if not self.percent > 0 or self.percent == float("inf"):
            raise ValueError(f"`percent` must be > 0 and finite, got {self.percent}")

    def draws(self, activations: int) -> int:
        """Give r, the number of categorical draws at a site of that many activations."""
        return int(self.percent * activations / 100)

    def apply(self, h: Tensor, drawing: Drawing, site: int, name: str) -> Tensor:
        """Prune the maps `h` (N, ...); `site` and `name` say where, for the noise and for errors.

        Raises:
            ValueError: the site is too small to get a single draw.
        """
        activations = h[:1].numel()
        draws = self.draws(activations)
        if draws < 1 and len(h) > 0:
            raise ValueError(f"percent={self.percent:g} gives no draw at site {name!r} of {activations} activations")
        return prune(h, drawing.rows(len(h), name), max(draws, 1), site, drawing.rule, f"site {name!r}")

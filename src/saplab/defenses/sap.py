"""Stochastic Activation Pruning."""

from dataclasses import dataclass

from torch import Tensor

from saplab.defenses.base import POSITIVE, Draw, Setting, Tuned
from saplab.pruning.normalised import Normalised, prune_normalised
from saplab.pruning.operator import draws_of, prune
from saplab.system.registry import register


@register("sap")
@dataclass(frozen=True)
class SAP(Tuned):
    """Stochastic Activation Pruning (Dhillon et al. 2018, Algorithm 1).

    In a pass, a site that is too small to get a single draw is an error.

    Attributes:
        percent: categorical draws per 100 activations of a site, with replacement, above 0; may exceed 100. r =
            floor(percent · a / 100), as in the authors' code. One number, or one for each pattern of site names.
    """

    allowed = POSITIVE
    percent: Setting = 100.0

    def draws(self, activations: int, where: str) -> int:
        """Return r, the number of categorical draws at a site of that size."""
        return draws_of(self.at(where), activations)

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Prune the maps `h` (N, ...)."""
        return prune(h, draw.rows, self._checked_draws(h, where), draw.site, draw.rule, f"site {where!r}")

    def rectified(self, h: Tensor, draw: Draw, where: str, norm: Normalised | None) -> Tensor:
        """Prune relu(h) in one pass over memory, together with the batch-norm before it where that is `norm`."""
        draws, place = self._checked_draws(h, where), f"site {where!r}"
        if norm is not None and draw.rule != "probability":
            return prune_normalised(norm, draw.rows, draws, draw.site, place, draw.rule)
        return prune(h, draw.rows, draws, draw.site, draw.rule, place, rectify=True)

    def _checked_draws(self, h: Tensor, where: str) -> int:
        activations = h.shape[1:].numel()
        draws = self.draws(activations, where)
        if draws < 1 and len(h) > 0:
            percent = self.at(where)
            raise ValueError(f"percent={percent:g} gives no draw at site {where!r} of {activations} activations")
        return max(draws, 1)

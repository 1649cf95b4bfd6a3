"""Random bit widths: each pass computes with weights and maps of another precision."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saplab.defenses.base import Defense, Draw
from saplab.system.registry import register


@register("rpi")
@dataclass(frozen=True)
class RandomPrecision(Defense):
    """Random precision inference (RPI, of Double-Win Quant: Fu et al. 2021, and the authors' code).

    Each pass draws one number of bits b, uniform from `low` to `high`, and rounds maps and weights to 2^b values
    between their least and their greatest: those of one example's map, and of one filter (a row of a weight tensor).
    All places of a pass have the same b. On the way back rounding is passed straight through, as in the authors' code.

    Departures: the authors take the range of a map from a running average over training, here it is the example's own;
    they leave the first convolution, shortcuts and the classifier as they are, which `defend` does by `sites` and
    `parameters`.

    Attributes:
        low: fewest bits, 1 to 16; the authors' are 4.
        high: most bits, 1 to 16; the authors' are 16.
    """

    bends = False
    shared = True
    title = "RPI"
    low: int = 4
    high: int = 16

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            if not (isinstance(value, int) and 1 <= value <= 16):
                raise ValueError(f"`{name}` must be a whole number from 1 to 16, got {value!r}")
        if self.low > self.high:
            raise ValueError(f"`low` must be at most `high`, got {self.low} and {self.high}")

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Round the maps `h` (N, ...) of an activation function."""
        return rounded(h, self._steps(draw))

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        """Round a weight tensor (filters, ...)."""
        return rounded(w, self._steps(draw))

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        """Return the maps or weights themselves (BPDA)."""
        return x

    def _steps(self, draw: Draw) -> Tensor:
        """Return 2^b - 1 for this pass."""
        bits = draw.everywhere.randint(self.low, self.high + 1, ())
        return torch.exp2(bits.float()) - 1


def rounded(x: Tensor, steps: Tensor | float) -> Tensor:
    """Round each row of `x` (N, ...) to steps + 1 values, evenly spaced from its least to its greatest."""
    rows: Any = x.detach().reshape(len(x), math.prod(x.shape[1:])).float()
    low, high = (value.view(-1, *[1] * (x.dim() - 1)) for value in torch.aminmax(rows, dim=1))
    step = ((high - low) / steps).clamp(min=torch.finfo(torch.float32).tiny)
    return (low + ((x.float() - low) / step).round() * step).to(x.dtype)

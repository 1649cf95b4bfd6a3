"""Where an attack saw no gradient: which examples that were still right had a flat one, at its start and at its end."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saplab.attacks.estimate import Estimate


def broken(gradient: Tensor) -> Tensor:
    """Return for each example, (N,), whether its gradient (N, ...) holds NaN or infinity."""
    return ~torch.isfinite(gradient).flatten(1).all(1)


def flat(gradient: Tensor) -> Tensor:
    """Return for each example, (N,), whether its gradient tells nothing.

    That is: it is not finite, or so near to 0 that the type's smallest numbers round it: below 1e-31 in float32.
    """
    info = torch.finfo(gradient.dtype)
    return broken(gradient) | (gradient.flatten(1).abs().amax(1) < info.tiny / info.eps)


class Flatness:
    """A note of each example's first and last gradient: 1 where it was flat, 0 where not.

    NaN stands for an example that was wrong there, or whose gradient nobody asked for.

    Args:
        examples: (N,) numbers of the examples under attack.

    Attributes:
        start: (N,) at the first gradient of each example.
        ends: (N,) at the last one, for each radius that is done.
    """

    def __init__(self, examples: Tensor) -> None:
        self._place = {int(number): k for k, number in enumerate(examples)}
        self._seen = torch.zeros(len(examples), dtype=torch.bool)
        self._last = torch.full((len(examples),), torch.nan, dtype=torch.float32)
        self.start = self._last.clone()
        self.ends: dict[float, Tensor] = {}

    def note(self, examples: Tensor, estimate: Estimate) -> None:
        """Note the gradients of some examples."""
        rows = torch.tensor([self._place[int(number)] for number in examples], dtype=torch.int64)
        found = torch.where(estimate.lead <= 0, flat(estimate.gradient).float(), torch.nan).cpu().float()
        self.start[rows] = torch.where(self._seen[rows], self.start[rows], found)
        self._seen[rows] = True
        self._last[rows] = found

    def done(self, eps: float) -> None:
        """Note that the attack has ended at a radius."""
        self.ends[eps] = self._last.clone()

    def at(self, radii: Sequence[float]) -> Tensor:
        """Return the notes of the ends (L, N), NaN at radii that were not attacked."""
        unknown = torch.full_like(self.start, torch.nan)
        return torch.stack([self.ends.get(eps, unknown) for eps in radii])

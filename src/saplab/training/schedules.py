"""Learning rates as data: the rate after a number of epochs, which need not be whole."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """A constant learning rate for a number of epochs, then the next: ``(rate, epochs)`` pairs."""

    parts: tuple[tuple[float, int], ...]

    def rate(self, progress: float, epochs: int) -> float:
        """Return the rate after ``progress`` epochs; beyond the last part, that of the last part."""
        end = 0
        for rate, length in self.parts:
            end += length
            if progress < end:
                return rate
        return self.parts[-1][0]

    def least_epochs(self) -> int:
        """Return the smallest number of epochs that this schedule makes sense for."""
        return 1


@dataclass(frozen=True)
class WarmupLinear:
    """A learning rate that climbs linearly from 0 to ``peak`` over ``warmup`` epochs and falls linearly to 0.

    This is one cycle of Smith 2017, "Cyclical learning rates", where ``warmup`` is a large part of the epochs.
    """

    peak: float
    warmup: float

    def __post_init__(self) -> None:
        if not self.warmup > 0:
            raise ValueError(f"`warmup` must be > 0, got {self.warmup}")

    def rate(self, progress: float, epochs: int) -> float:
        """Return the rate after ``progress`` of ``epochs`` epochs."""
        return self.peak * min(progress / self.warmup, (epochs - progress) / (epochs - self.warmup))

    def least_epochs(self) -> int:
        """Return the smallest number of epochs that this schedule makes sense for."""
        return int(self.warmup) + 1

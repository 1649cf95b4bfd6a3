"""Learning rates as data: the rate after a number of epochs, which need not be whole."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """A constant learning rate for a number of epochs, then the next: ``(rate, epochs)`` pairs."""

    parts: tuple[tuple[float, int], ...]

    def rate(self, progress: float, epochs: int) -> float:
        """Give the rate after ``progress`` epochs; beyond the last part, the last part's."""
        end = 0
        for rate, length in self.parts:
            end += length
            if progress < end:
                return rate
        return self.parts[-1][0]

    def least_epochs(self) -> int:
        """Give the fewest epochs that this rate makes sense for."""
        return 1


@dataclass(frozen=True)
class WarmupLinear:
    """A learning rate that climbs linearly from 0 to ``peak`` over ``warmup`` epochs and falls linearly to 0.

    One cycle of Smith 2017's "cyclical learning rates", where ``warmup`` is a large part of the epochs.
    """

    peak: float
    warmup: float

    def rate(self, progress: float, epochs: int) -> float:
        """Give the rate after ``progress`` of ``epochs`` epochs."""
        return self.peak * min(progress / self.warmup, (epochs - progress) / (epochs - self.warmup))

    def least_epochs(self) -> int:
        """Give the fewest epochs that this rate makes sense for."""
        return int(self.warmup) + 1


def halved(first: float, every: int, epochs: int) -> Steps:
    """Give a rate that begins at ``first`` and is halved every so many epochs."""
    return Steps(tuple((first / 2**k, every) for k in range(-(-epochs // every))))

"""Which draws a forward pass makes: the streams of its examples, and the rule for the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from saplab import noise
from saplab.pruning.operator import RULES, BackwardRule


@dataclass(frozen=True)
class Drawing:
    """The draws of one pass over a batch.

    Args:
        streams: (N, 3) int64, one row per example of the batch; None numbers the rows of a fresh pass from 0.
        key, pass_: of a fresh pass, where `streams` is None.
        rule: how SAP's gradient is taken.
    """

    streams: Tensor | None
    key: int = 0
    pass_: int = 0
    rule: BackwardRule = "mask"

    def rows(self, count: int, name: str) -> Tensor:
        """Give streams for `count` maps at the site `name`: one each, or k each where a network splits examples."""
        if self.streams is None:
            return noise.streams(self.key, self.pass_, torch.arange(count))
        share, rest = divmod(count, max(len(self.streams), 1))
        if rest:
            raise ValueError(f"site {name!r} has {count} maps for a batch of {len(self.streams)} examples")
        if share == 1:
            return self.streams
        rows = self.streams.repeat_interleave(share, 0)
        rows[:, 2] = rows[:, 2] * share + torch.arange(share).repeat(len(self.streams))
        return rows

    def whole(self) -> Tensor:
        """Give the one stream (1, 3) of the pass itself, for what all its examples share.

        Raises:
            ValueError: the batch mixes passes, as stacked Monte Carlo samples do.
        """
        key, pass_ = self.key, self.pass_
        if self.streams is not None and len(self.streams):
            if (self.streams[:, :2] != self.streams[0, :2]).any():
                raise ValueError("weights are drawn once a pass, but this batch mixes passes")
            key, pass_ = (int(value) for value in self.streams[0, :2])
        return noise.streams(key, pass_, torch.tensor([noise.EXAMPLES - 1]))


_current: ContextVar[Drawing | None] = ContextVar("saplab_drawing", default=None)


def current() -> Drawing | None:
    """Give the draws that the enclosing `drawing` fixes, or None."""
    return _current.get()


@contextmanager
def drawing(streams: Tensor, rule: BackwardRule = "mask") -> Iterator[None]:
    """Fix the draws of every defended network called inside: `streams` (N, 3), one row per example of the batch.

    Raises:
        ValueError: an unknown `rule`.
    """
    if rule not in RULES:
        raise ValueError(f"`backward` must be one of {', '.join(RULES)}, got {rule!r}")
    token = _current.set(Drawing(streams, rule=rule))
    try:
        yield
    finally:
        _current.reset(token)

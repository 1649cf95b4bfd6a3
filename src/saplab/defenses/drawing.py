"""Which draws a forward pass makes: the streams of its examples, and the rule for the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saplab.pruning.operator import RULES, BackwardRule
from saplab.rng.streams import EXAMPLES, pass_streams


@dataclass(frozen=True)
class Drawing:
    """The draws of one pass over a batch. All that changes from pass to pass is in tensors, for `torch.compile`.

    Attributes:
        streams: (N, 3) int64, one row per example of the batch; or (1, 3) of a fresh pass.
        rule: how the gradient passes a defence.
        fresh: whether the batch's rows are numbered from 0, however many they are.
        inputs_only: whether nobody asks for the gradients of parameters.
    """

    streams: Tensor
    rule: BackwardRule = "mask"
    fresh: bool = False
    inputs_only: bool = False

    def rows(self, count: int, where: str) -> Tensor:
        """Return the streams of `count` maps at a place: one each, or k each where a network splits examples.

        Raises:
            ValueError: the maps cannot be the examples' of the batch.
        """
        if self.fresh:
            numbers = torch.arange(count, device=self.streams.device)
            return torch.cat((self.streams[:, :2].expand(count, 2), numbers.unsqueeze(1)), 1)
        share, rest = divmod(count, max(len(self.streams), 1))
        if rest:
            raise ValueError(f"site {where!r} has {count} maps for a batch of {len(self.streams)} examples")
        if share == 1:
            return self.streams
        rows = self.streams.repeat_interleave(share, 0)
        rows[:, 2] = rows[:, 2] * share + torch.arange(share, device=rows.device).repeat(len(self.streams))
        return rows

    def on(self, device: torch.device) -> "Drawing":
        """Return the same draws with their streams on a device, where all sites of a pass find them."""
        return self if self.streams.device == device else replace(self, streams=moved(self.streams, device))

    def whole(self) -> Tensor:
        """Return the one stream (1, 3) of the pass itself, for what all its examples share.

        Raises:
            ValueError: the batch mixes passes, as stacked Monte Carlo samples do.
        """
        if len(self.streams) > 1 and (self.streams[:, :2] != self.streams[:1, :2]).any():
            raise ValueError("one draw serves a whole pass, but this batch mixes passes; a defence says so by `shared`")
        row = self.streams[:1].clone() if len(self.streams) else pass_streams(0, 0, torch.zeros(1))
        row[:, 2] = EXAMPLES - 1
        return row


def moved(streams: Tensor, device: torch.device) -> Tensor:
    """Return streams on a device. They are few bytes, which nothing waits for."""
    return streams.to(device, non_blocking=True)


def fresh(key: int, pass_: int, rule: BackwardRule = "mask") -> Drawing:
    """Return the draws of a direct call."""
    return Drawing(pass_streams(key, pass_, torch.zeros(1)), rule, fresh=True)


def check_rule(rule: str) -> None:
    """Refuse an unknown backward rule.

    Raises:
        ValueError: see above.
    """
    if rule not in RULES:
        raise ValueError(f"`backward` must be one of {', '.join(RULES)}, got {rule!r}")


_current: ContextVar[Drawing | None] = ContextVar("saplab_drawing", default=None)


def current() -> Drawing | None:
    """Return the draws that the enclosing `drawing` fixes, or None."""
    return _current.get()


@contextmanager
def drawing(streams: Tensor, rule: BackwardRule = "mask", inputs_only: bool = False) -> Iterator[None]:
    """Fix the draws of every defended network called inside: `streams` (N, 3), one row per example of the batch.

    With `inputs_only`, parameters get no gradients where gradients by the input have a shorter way without them.

    Raises:
        ValueError: an unknown `rule`.
    """
    check_rule(rule)
    token = _current.set(Drawing(streams, rule, inputs_only=inputs_only))
    try:
        yield
    finally:
        _current.reset(token)

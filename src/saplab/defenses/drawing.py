"""Which draws a forward pass makes: the streams of its examples, and the rule for the way back."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.utils.checkpoint
from torch import Tensor

from saplab.pruning.operator import RULES, BackwardRule
from saplab.rng.streams import EXAMPLES, pass_streams

NOT_REPEATABLE: Final = (
    "activation checkpointing would run a defended network a second time with other draws; call"
    " torch.utils.checkpoint.checkpoint(…, use_reentrant=False, context_fn=saplab.same_draws)"
)


@dataclass(frozen=True)
class Drawing:
    """The draws of one pass over a batch. All that changes from pass to pass is in tensors, for `torch.compile`.

    Args:
        streams: (N, 3) int64, one row per example of the batch; or (1, 3) of a fresh pass.
        rule: how SAP's gradient is taken.
        fresh: whether the batch's rows are to be numbered from 0, however many they are.
        inputs_only: whether nobody asks for the gradients of parameters.
    """

    streams: Tensor
    rule: BackwardRule = "mask"
    fresh: bool = False
    inputs_only: bool = False

    def rows(self, count: int, name: str) -> Tensor:
        """Give streams for `count` maps at the site `name`: one each, or k each where a network splits examples."""
        if self.fresh:
            numbers = torch.arange(count, device=self.streams.device)
            return torch.cat((self.streams[:, :2].expand(count, 2), numbers.unsqueeze(1)), 1)
        share, rest = divmod(count, max(len(self.streams), 1))
        if rest:
            raise ValueError(f"site {name!r} has {count} maps for a batch of {len(self.streams)} examples")
        if share == 1:
            return self.streams
        rows = self.streams.repeat_interleave(share, 0)
        rows[:, 2] = rows[:, 2] * share + torch.arange(share, device=rows.device).repeat(len(self.streams))
        return rows

    def on(self, device: torch.device) -> "Drawing":
        """Give the same draws with their streams on a device, where all sites of a pass find them."""
        return self if self.streams.device == device else replace(self, streams=moved(self.streams, device))

    def whole(self) -> Tensor:
        """Give the one stream (1, 3) of the pass itself, for what all its examples share.

        Raises:
            ValueError: the batch mixes passes, as stacked Monte Carlo samples do.
        """
        if len(self.streams) > 1 and (self.streams[:, :2] != self.streams[:1, :2]).any():
            raise ValueError("weights are drawn once a pass, but this batch mixes passes")
        row = self.streams[:1].clone() if len(self.streams) else pass_streams(0, 0, torch.zeros(1))
        row[:, 2] = EXAMPLES - 1
        return row


def moved(streams: Tensor, device: torch.device) -> Tensor:
    """Give streams on a device. They are few bytes, which nothing waits for."""
    return streams.to(device, non_blocking=True)


def fresh(key: int, pass_: int, rule: BackwardRule = "mask") -> Drawing:
    """Give the draws of a direct call."""
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
    """Give the draws that the enclosing `drawing` fixes, or None."""
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


def checkpoints() -> int:
    """Count the activation checkpoints that are running their function for the first time around the caller."""
    found, frame = 0, sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        found += code.co_name == "checkpoint" and code.co_filename == torch.utils.checkpoint.__file__
        frame = frame.f_back  # type: ignore[assignment]
    return found


def inside_checkpoint() -> bool:
    """Tell whether an activation checkpoint around the caller is running its function, for the first or second time."""
    return _tape.get() is not None or checkpoints() > 0


class Tape:
    """The draws of the passes that a checkpointed function begins, in order, for its second run."""

    def __init__(self, draws: list[Drawing], repeats: bool) -> None:
        self._draws = draws
        self._repeated = iter(draws) if repeats else None

    def begin(self, draw: Callable[[], Drawing]) -> Drawing:
        """Give the draws of the next pass: new ones in the first run, the same ones in the second."""
        if self._repeated is not None:
            return next(self._repeated)
        self._draws.append(draw())
        return self._draws[-1]


_tape: ContextVar[Tape | None] = ContextVar("saplab_tape", default=None)


@contextmanager
def taping(tape: Tape) -> Iterator[None]:
    """Let the passes that begin inside draw through `tape`."""
    token = _tape.set(tape)
    try:
        yield
    finally:
        _tape.reset(token)


def begin(fresh: Callable[[], Drawing]) -> Drawing:
    """Give the draws of a pass that begins now: what an enclosing `drawing` fixes, else `fresh()`.

    Raises:
        ValueError: an activation checkpoint around the pass would run it a second time with other draws.
    """
    tape = _tape.get()
    if tape is not None:
        return tape.begin(lambda: current() or fresh())
    if checkpoints():
        raise ValueError(NOT_REPEATABLE)
    return current() or fresh()

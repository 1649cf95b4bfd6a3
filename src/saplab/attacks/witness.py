"""A few rows of an attack's passes, kept to be run again as predictions are: is what was attacked what is judged?"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from saplab.attacks.problem import Problem
from saplab.defenses.drawing import drawing
from saplab.defenses.dressing import dresses
from saplab.defenses.parallel import over_threads
from saplab.defenses.prediction import for_network, logits
from saplab.defenses.stage import rows_apart
from saplab.defenses.stochastic import comes_again
from saplab.rng.streams import pass_streams

_SPREAD: Final = 2654435761  # by which rows are chosen, over batches of any size


@dataclass(frozen=True)
class Record:
    """Some rows of one pass of an attack.

    Attributes:
        model: that was attacked.
        images: (r, ...), the points where it was.
        streams: (r, 3), their draws, all of one pass.
        found: (r, C), the logits that it returned.
    """

    model: nn.Module
    images: Tensor
    streams: Tensor
    found: Tensor

    def again(self, images: Tensor, examples: Tensor) -> Tensor:
        """Return the logits of the same rows among `images` (N, ...) with numbers (N,), as a prediction finds them."""
        batch, key, pass_ = for_network(self.model, images).clone(), int(self.streams[0, 0]), int(self.streams[0, 1])
        streams = pass_streams(key, pass_, examples)
        places = (examples[None, :] == self.streams[:, 2:]).int().argmax(1)
        if len(places.unique()) < len(places):  # rows that are not among these images
            places = torch.arange(len(places))
        batch[places.to(batch.device)], streams[places] = self.images.to(batch.dtype), self.streams

        def run(some: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad(), drawing(rows):
                return (logits(self.model, some),)

        (z,) = over_threads(self.model, run, batch, streams)
        return z[places.to(z.device)]


@dataclass
class Witness:
    """Keeps two rows of an attack's calls number 1, 2, 4, 8 and so on."""

    calls: int = 0
    records: list[Record] = field(default_factory=list)

    def see(self, batch: Problem, streams: Tensor, found: Tensor) -> None:
        """Look at one call: logits (M, C) of the batch's passes, whose first rows are its examples in their order."""
        self.calls += 1
        if self.calls & (self.calls - 1) or not all(map(comes_again, dresses(batch.adversary))):
            return
        count = len(batch.images)
        first = self.calls * _SPREAD % count
        rows = torch.tensor(sorted({first, count - 1 - first}))
        points = batch.images[rows.to(batch.images.device)].detach().clone()
        own = found[rows.to(found.device)].detach().float().cpu()
        self.records.append(Record(batch.adversary, points, streams[rows].clone(), own))

    def agrees(self, images: Tensor, examples: Tensor) -> bool:
        """Return whether the rows come out again among images (N, ...) with numbers (N,).

        An honest network that rounds or chooses may spoil some by the last bits of its arithmetic: one in four of all,
        and both of one call, of several.
        """
        again = [record.again(images, examples).float().cpu() for record in self.records]
        pairs = [(record.found, other) for record, other in zip(self.records, again, strict=True)]
        spoilt = [rows_apart(one, other) for one, other in pairs]
        whole = sum(apart == len(one) for apart, (one, _) in zip(spoilt, pairs, strict=True))
        return whole <= (len(pairs) > 2) and sum(spoilt) <= max(2, sum(len(one) for one, _ in pairs) // 4)


_present: Final[ContextVar[Witness | None]] = ContextVar("saplab_witness", default=None)


@contextmanager
def witnessed() -> Iterator[Witness]:
    """Let a witness see the passes of the attacks inside."""
    found = Witness()
    token = _present.set(found)
    try:
        yield found
    finally:
        _present.reset(token)


def present() -> Witness | None:
    """Return who sees the attacks that run now, if anybody does."""
    return _present.get()

"""What a number of passes say of a point: its loss, who leads there, and which way the loss rises."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saplab.pruning.finite import check_finite

LogLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """What `samples` passes of a network say of N points.

    Attributes:
        loss: (N,) mean loss over the passes, or the loss of the mean logits or probabilities where these are averaged.
        rank: (N,) float64, which orders points as the loss does, also where all losses round to 0.
        logits, probs: (N, C) float64, their means over the passes.
        log_probs: (N, C) float64, the logarithm of `probs`, which is finite also where these round to 0.
        lead: (N,) by how much the mean probability of the likeliest other class exceeds the label's; above 0 where
            the averaged prediction is wrong.
        lead_error: (N,) its standard error over the passes; infinite for a single pass of a random network.
        samples: passes behind all this.
    """

    loss: Tensor
    rank: Tensor
    logits: Tensor
    probs: Tensor
    log_probs: Tensor
    lead: Tensor
    lead_error: Tensor
    samples: int


@dataclass(frozen=True)
class Estimate(Score):
    """A score, and the gradient of the loss by the image.

    Attributes:
        gradient: (N, C, H, W).
        half_cosine: (N,) cosine between the gradients of the first and of the second half of the passes; NaN for
            fewer than two passes, a network that is not random, or a half that is all zero.
    """

    gradient: Tensor
    half_cosine: Tensor


AnyScore = TypeVar("AnyScore", bound=Score)


def joined(parts: Sequence[AnyScore]) -> AnyScore:
    """Put together the scores or estimates of batches, in order."""
    columns = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
    columns.pop("samples")
    return type(parts[0])(**{name: torch.cat(column) for name, column in columns.items()}, samples=parts[0].samples)


class Tally:
    """Sums over passes, from which scores and estimates are made at any moment.

    Args:
        labels: (N,).
        random: whether passes differ.
        halves: numbers of passes after which the gradient so far is kept, as the first half of twice as many.
        log_loss: logits (N, C), labels (N,) -> the logarithm of the loss, which ranks points; None to rank by the loss.
    """

    def __init__(
        self, labels: Tensor, random: bool, halves: Collection[int] = (), log_loss: LogLoss | None = None
    ) -> None:
        self.samples = 0
        self._labels = labels
        self._random = random
        self._halves = {half: torch.empty(0) for half in halves}
        self._log_loss = log_loss
        self._loss = self._logits = self._probs = self._squares = torch.zeros((), dtype=torch.float64)
        self._logs = self._ranks = torch.full((), -torch.inf, dtype=torch.float64)
        self._gradient = torch.zeros(())

    def add(self, logits: Tensor, loss: Tensor, gradient: Tensor | None = None) -> None:
        """Add k passes: logits (k, N, C), loss (k, N), gradient (k, N, ...)."""
        z = logits.double()
        logs = z.log_softmax(2)
        p = logs.exp()
        gap = p - p.gather(2, self._labels.expand(len(p), -1)[:, :, None])
        self._loss = self._loss + loss.double().sum(0)
        self._logits, self._probs = self._logits + z.sum(0), self._probs + p.sum(0)
        self._squares = self._squares + gap.square().sum(0)
        self._logs = torch.logaddexp(self._logs.to(z.device), logs.logsumexp(0))
        if self._log_loss is not None:
            ranks = torch.stack([self._log_loss(one, self._labels) for one in z])
            self._ranks = torch.logaddexp(self._ranks.to(z.device), ranks.logsumexp(0))
        if gradient is not None:
            self._gradient = self._gradient.to(gradient) + (gradient[0] if len(gradient) == 1 else gradient.sum(0))
        self.samples += len(logits)
        if self.samples in self._halves:
            self._halves[self.samples] = self._gradient

    def score(self) -> Score:
        """Return the score of all passes so far."""
        n = self.samples
        probs, own = self._probs / n, self._labels[:, None]
        check_finite()
        if probs.isnan().any():
            raise ValueError("the network's logits are not finite (NaN or infinity)")
        logs = self._logs - math.log(n)
        others = logs.masked_fill(F.one_hot(self._labels, probs.shape[1]).bool(), -torch.inf)
        rival = others.argmax(1, keepdim=True)
        lead = (probs.gather(1, rival) - probs.gather(1, own))[:, 0]
        if n > 1:
            variance = (self._squares.gather(1, rival)[:, 0] / n - lead.square()).clamp(min=0.0)
            error = (variance / (n - 1)).sqrt()
        else:
            error = torch.full_like(lead, math.inf if self._random else 0.0)
        rank = self._loss / n if self._log_loss is None else self._ranks - math.log(n)
        return Score(self._loss / n, rank, self._logits / n, probs, logs, lead, error, n)

    def estimate(self) -> Estimate:
        """Return the score and the gradient of all passes so far, which may not be finite."""
        check_finite()
        return Estimate(**vars(self.score()), gradient=self._gradient / self.samples, half_cosine=self._half_cosine())

    def _half_cosine(self) -> Tensor:
        if self.samples < 2 or not self._random:
            return torch.full_like(self._loss, math.nan)
        first = self._halves[self.samples // 2]
        a, b = (half.flatten(1).double() for half in (first, self._gradient - first))
        cosine: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        return cosine

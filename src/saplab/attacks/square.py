"""Square Attack (Andriushchenko et al. 2020): random search on scores alone, in the maximum norm."""

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Self, cast

import numpy as np
import torch
from torch import Tensor

from saplab.attacks.estimate import Score, lost
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.problem import Problem
from saplab.attacks.search import SearchAttack
from saplab.rng.streams import pass_streams, random_words, stream_key
from saplab.system.registry import register

SQUARES: Final = 6  # kind of these random numbers
HALVINGS: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of p, in queries of 10,000 (section 5)


@register("square")
@dataclass(frozen=True)
class Square(SearchAttack):
    """Square Attack (Andriushchenko et al. 2020, Algorithms 1 and 2), on probabilities averaged over passes.

    It sees no gradient, so a masked one cannot deceive it. One query is the margin loss of the logarithm of the mean
    softmax over `passes` passes: `queries` times `passes` evaluations of a random network for one image, `queries` of
    another one.

    On a random network a candidate is held against the present point by the same fresh passes, two queries a turn. A
    score from earlier passes would not do, not even one measured again after the choice: points with a score by luck
    too high are the ones that stay, and the search stands still.

    Attributes:
        queries: for one image at one `eps`.
        passes: of the adversary, averaged in one query.
        p_init: share of the image that a square covers at first.
        stop_when_lost: as in `PGD`.
    """

    knowledge = "scores"
    title = "the Square attack"
    queries: int = 1000
    passes: int = 10
    p_init: float = 0.8
    stop_when_lost: bool = True

    def __post_init__(self) -> None:
        for name in ("queries", "passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be >= 1, got {getattr(self, name)}")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"`p_init` must be in (0, 1], got {self.p_init}")

    @property
    def samples(self) -> int:
        """Return the passes that a query averages."""
        return self.passes

    def steps_at(self, eps: float) -> int:
        """Return the queries."""
        return self.queries

    def plain(self, random: bool, rules: bool, own: bool) -> Self:
        """Return the attack with one pass a query where passes do not differ; see `Attack.plain`."""
        found: Any = super().plain(random, rules, own)
        return cast(Self, found if random else replace(found, passes=1))

    def describe(self, rules: bool) -> str:
        """Return the attack's name for people: queries, and passes where there are several."""
        head = f"Square-{self.queries}" + (f" ×{self.passes}" if self.passes > 1 else "")
        return " ".join([head, *self._unusual("queries", "passes")])

    @property
    def _blocks(self) -> int:
        return self.queries

    @property
    def _block_cost(self) -> Cost:
        return Cost(self.passes, 0)

    def _asking(self, random: bool) -> MonteCarlo:
        return MonteCarlo(self.passes if random else 1, average="probabilities", loss="margin")

    def _climb(self, problem: Problem, eps: float, number: int, first_block: int) -> Tensor:
        points, active = _stripes(problem, eps), problem.everyone()
        random = problem.random
        asking, loss = self._asking(random), torch.empty(0)
        for turn in range(self.queries // 2 if random else self.queries - 1):
            if random or turn == 0:
                present = asking.score(problem.part(active).at(points[active]), first_block + turn)
                active, loss = self._going(active, present.loss, present)
            if len(active) == 0:
                break
            part = problem.part(active)
            candidates = _with_squares(part, points[active], eps, self._side(turn * (1 + random), points), turn + 1)
            score = asking.score(part.at(candidates), first_block + turn)
            better = score.loss > loss
            points[active[better]] = candidates[better]
            if not random:
                active, loss = self._going(active, score.loss.maximum(loss), score)
        return points

    def _going(self, active: Tensor, loss: Tensor, score: Score) -> tuple[Tensor, Tensor]:
        """Leave out the examples that the score calls lost."""
        going = ~(lost(score) & self.stop_when_lost)
        return active[going], loss[going]

    def _side(self, used: int, images: Tensor) -> int:
        """Return the side of the next square, by the schedule of p over the queries used."""
        *_, height, width = images.shape
        halvings = sum(used * 10_000 > after * self.queries for after in HALVINGS)
        side = round(math.sqrt(self.p_init * 0.5**halvings * height * width))
        return min(max(side, 1), height, width)


def _words(problem: Problem, turn: int, count: int) -> Tensor:
    """Draw 32-bit words (n, count), int64, that depend on the turn and on each example's number alone."""
    rows = pass_streams(stream_key(problem.seed, "noise"), turn, problem.examples)
    words = random_words(rows, count, kind=SQUARES).astype(np.int64)
    return torch.from_numpy(words).to(problem.images.device)


def _stripes(problem: Problem, eps: float) -> Tensor:
    """Start with vertical stripes one pixel wide, of +eps or -eps in each channel."""
    count, channels, _, width = problem.images.shape
    signs = (_words(problem, 0, channels * width) & 1).view(count, channels, 1, width) * 2 - 1
    return problem.project(problem.images + eps * signs, eps)


def _with_squares(problem: Problem, points: Tensor, eps: float, side: int, turn: int) -> Tensor:
    """Put into each of `points` one square, anywhere, of +eps or -eps from the image in each channel."""
    channels, height, width = points.shape[1:]
    words = _words(problem, turn, 2 + channels)
    signs = ((words[:, 2:] & 1) * 2 - 1)[:, :, None, None]
    rows, columns = (_covered(words[:, i], side, size) for i, size in ((0, height), (1, width)))
    squares = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(squares, problem.project(problem.images + eps * signs, eps), points)


def _covered(words: Tensor, side: int, size: int) -> Tensor:
    """Return which of `size` places each side covers, (n, size), when its beginning is uniform over all that fit."""
    begin = (words * (size - side + 1) >> 32)[:, None]
    place = torch.arange(size, device=words.device)
    return (place >= begin) & (place < begin + side)

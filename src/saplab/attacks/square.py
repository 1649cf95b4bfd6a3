"""Square Attack (Andriushchenko et al. 2020): random search on scores alone."""

from dataclasses import dataclass, replace
from typing import Any, Final, Self, cast

import torch
from torch import Tensor

from saplab.attacks.estimate import Score
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.lost import Watch
from saplab.attacks.problem import Problem
from saplab.attacks.search import SearchAttack
from saplab.attacks.squares import WINDOWS
from saplab.system.counts import check_count
from saplab.system.precision import Precision, check_precision
from saplab.system.registry import register

HALVINGS: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of p, in queries of 10,000 (section 5)


@register("square")
@dataclass(frozen=True)
class Square(SearchAttack):
    """Square Attack (Andriushchenko et al. 2020, Algorithms 1 to 3), on probabilities averaged over passes.

    It sees no gradient, so a masked one cannot deceive it. One query is the margin loss of the logarithm of the mean
    softmax over `passes` passes, or that of the logits of a network that is not random: `queries` times `passes`
    evaluations of a random network for one image, `queries` of another one. Neither underflows.

    On a random network a candidate is held against the present point by the same fresh passes, two queries a turn. A
    score from earlier passes would not do, not even one measured again after the choice: points with a score by luck
    too high are the ones that stay, and the search stands still.

    Attributes:
        queries: for one image at one `eps`.
        passes: of the adversary, averaged in one query.
        p_init: share of the image that a square covers at first.
        stop_when_lost: as in `PGD`.
        precision: of the passes of queries to a random network, as in `MonteCarlo`; whatever judges a point keeps the
            usual one, and so do queries to any other network, whose small gains bfloat16 would round away.
    """

    knowledge = "scores"
    title = "the Square attack"
    queries: int = 1000
    passes: int = 10
    p_init: float = 0.8
    stop_when_lost: bool = True
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in ("queries", "passes"):
            check_count(name, getattr(self, name))
        if not 0 < self.p_init <= 1:
            raise ValueError(f"`p_init` must be in (0, 1], got {self.p_init}")
        check_precision(self.precision)

    @property
    def samples(self) -> int:
        """Return the passes that a query averages."""
        return self.passes

    def steps_at(self, eps: float) -> int:
        """Return the queries."""
        return self.queries

    def plain(self, random: bool, rules: bool, own: bool) -> Self:
        """Return the attack with one pass a query, in the usual precision, where passes do not differ."""
        found: Any = super().plain(random, rules, own)
        return cast(Self, found if random else replace(found, passes=1, precision="float32"))

    def describe(self, rules: bool) -> str:
        """Return the attack's name for people: queries, and passes where there are several."""
        head = f"Square-{self.queries}" + (f" ×{self.passes}" if self.passes > 1 else "")
        rough = ["bfloat16"] if self.precision == "bfloat16" else []
        return " ".join([head, *self._unusual("queries", "passes", "precision"), *rough])

    @property
    def _blocks(self) -> int:
        return self.queries

    @property
    def _block_cost(self) -> Cost:
        return Cost(self.passes, 0)

    def _asking(self, random: bool) -> MonteCarlo:
        passes, precision = (self.passes, self.precision) if random else (1, "float32")
        return MonteCarlo(passes, average="probabilities", loss="margin", precision=precision)

    def _climb(self, problem: Problem, eps: float, number: int, first_block: int, watch: Watch | None) -> Tensor:
        windows, random = WINDOWS[problem.threat.norm], problem.random
        points, active = windows.start(problem, eps), problem.everyone()
        asking, loss = self._asking(random), torch.empty(0)
        for turn in range(self.queries // 2 if random else self.queries - 1):
            if random or turn == 0:
                part = problem.part(active).at(points[active])
                present = asking.query(part, first_block + turn)
                going = _going(part, asking, present, first_block + turn, watch and watch.part(active))
                active, loss = active[going], present.loss[going]
            if len(active) == 0:
                break
            part = problem.part(active)
            share = self._share(turn * (1 + random))
            candidates = windows.candidates(part, points[active], eps, share, turn + 1)
            score = asking.query(part.at(candidates), first_block + turn)
            better = score.loss > loss
            points[active[better]] = candidates[better]
            if not random:
                going = _going(part, asking, score, first_block + turn, watch and watch.part(active))
                active, loss = active[going], score.loss.maximum(loss)[going]
        return points

    def _share(self, used: int) -> float:
        """Return p, the share of the image that the next window covers, by its schedule over the queries used."""
        halvings = sum(used * 10_000 > after * self.queries for after in HALVINGS)
        return self.p_init * 0.5**halvings


def _going(present: Problem, asking: MonteCarlo, score: Score, block: int, watch: Watch | None) -> Tensor:
    """Return which examples are attacked on."""
    if watch is None:
        return torch.ones_like(present.everyone(), dtype=torch.bool)
    return ~watch.lost(present, asking, score, block)

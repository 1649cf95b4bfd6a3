"""Several tries at each eps: restarts and targets, the best of them kept, examples that are lost attacked no more."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from saplab.attacks.estimate import lost
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.problem import Problem

Climb = Callable[[Problem, float, int, int], Tensor]  # (problem, eps, number of the try, its first block) -> points


@dataclass(frozen=True)
class Search:
    """The tries of an attack at each eps.

    Each try ends with a score of its points by passes that the climb has not seen, and the point of highest loss is
    kept: by the climb's own draws, the luckiest try would win. An example that this score calls lost is attacked no
    more if `stop_when_lost`, neither here nor at larger eps, whose balls hold its point too; nor is one that is lost
    as it comes.

    Attributes:
        gradient: how tries ask about a point.
        restarts: tries, or tries towards each target.
        targets: how many other classes to drive towards, the likeliest on the clean image first; 0 for untargeted.
        stop_when_lost: see above.
        blocks: of samples, that one climb may use.

    Raises:
        ValueError: `restarts` < 1 or `targets` < 0.
    """

    gradient: MonteCarlo
    restarts: int
    targets: int
    stop_when_lost: bool
    blocks: int

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise ValueError(f"`restarts` must be >= 1, got {self.restarts}")
        if self.targets < 0:
            raise ValueError(f"`targets` must be >= 0, got {self.targets}")

    def cost(self, eps: Sequence[float], climb: Cost) -> Cost:
        """Bound the passes of a whole curve, where one climb takes `climb`."""
        radii = len({e for e in eps if e > 0})
        looks = self._looks_first * (radii > 0)
        judged = radii * self._tries if self._tries > 1 else max(radii - 1, 0) * self.stop_when_lost
        return climb * (radii * self._tries) + Cost(self.gradient.samples, 0) * (looks + judged)

    @property
    def _tries(self) -> int:
        return self.restarts * max(self.targets, 1)

    @property
    def _looks_first(self) -> bool:
        return self.stop_when_lost or self.targets > 0

    def ascending(self, problem: Problem, radii: Sequence[float], climb: Climb) -> Iterator[Tensor]:
        """Yield the points found at each of `radii`, which ascend."""
        best, active, rivals = problem.images.clone(), problem.everyone(), None
        if self._looks_first and radii[-1] > 0:
            clean = self.gradient.score(problem, self._tries * (self.blocks + 1))
            active = active[~lost(clean)] if self.stop_when_lost else active
            rivals = _likeliest_others(clean.probs, problem.labels, self.targets)
        for eps in radii:
            if eps > 0:
                judged = self._tries > 1 or (self.stop_when_lost and eps < radii[-1])
                active = self._best_of_tries(problem, rivals, eps, climb, best, active, judged)
            yield best.clone()

    def _best_of_tries(
        self, problem: Problem, rivals: Tensor | None, eps: float, climb: Climb, best: Tensor, active: Tensor,
        judged: bool,
    ) -> Tensor:  # fmt: skip
        """Write the best point of each active example into `best`, and give the examples that go on."""
        loss = torch.full((len(best),), -torch.inf, dtype=torch.float64, device=best.device)
        for number in range(self._tries):
            if len(active) == 0:
                break
            targets = None if rivals is None or self.targets == 0 else rivals[:, number % self.targets]
            part = replace(problem, targets=targets).part(active)
            first = number * (self.blocks + 1)
            points = climb(part, eps, number, first)
            if not judged:
                best[active] = points
                continue
            score = self.gradient.score(part.at(points), first + self.blocks)
            better = ~(score.loss < loss[active])
            best[active[better]], loss[active[better]] = points[better], score.loss[better].double()
            active = active[~lost(score)] if self.stop_when_lost else active
        return active


def _likeliest_others(probs: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the `count` likeliest classes other than the label, (N, count), likeliest first.

    Raises:
        ValueError: the network has no `count` other classes.
    """
    if count >= probs.shape[1]:
        raise ValueError(f"`targets` must be below the number of classes, {probs.shape[1]}, got {count}")
    others = probs.masked_fill(F.one_hot(labels, probs.shape[1]).bool(), -1.0)
    return others.topk(count, 1).indices

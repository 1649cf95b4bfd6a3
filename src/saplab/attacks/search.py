"""Attacks of several tries at each eps: restarts and targets, the best of them kept, lost examples attacked no more."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from saplab.attacks.base import Attack, GradientAttack
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.losses import margin
from saplab.attacks.lost import Watch, cost_of
from saplab.attacks.problem import Problem
from saplab.system.counts import MOST, check_count


class SearchAttack(Attack):
    """An attack that tries several times at each eps.

    Each try ends with a score of its points by passes that the climb has not seen: by the climb's own draws, the
    luckiest try would win. A point that is wrong there, or the target, is kept before one that is not; among such, of
    a random network the one whose averaged prediction is farthest from right, of another network that of highest
    loss. The mean loss of a random network would not do: few passes of an enormous loss may outweigh a majority that
    is right. An example that is lost there (see `Watch`) is attacked no more if `stop_when_lost`, neither here nor at
    larger eps, whose balls hold its point too; nor is one that is misclassified before any attack.

    Attributes:
        restarts: tries, or tries towards each target.
        targets: how many other classes to drive towards in turn, the likeliest on the clean image first; a negative
            number for as many of the least likely, the least likely first; 0 for untargeted.
        stop_when_lost: see above.
    """

    restarts: int = 1
    targets: int = 0
    stop_when_lost: bool = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps_at(1.0))
        check_count("restarts", self.restarts)
        check_count("targets", self.targets, -MOST)

    def check_classes(self, classes: int) -> None:
        """Refuse as many targets as there are classes, or more."""
        super().check_classes(classes)
        if abs(self.targets) >= classes:
            raise ValueError(f"`targets` must be below the number of classes, {classes}, got {self.targets}")

    @property
    @abstractmethod
    def _blocks(self) -> int:
        """Count the blocks of samples that one climb may use."""

    @property
    @abstractmethod
    def _block_cost(self) -> Cost:
        """Return the passes of a block."""

    @abstractmethod
    def _asking(self, random: bool) -> MonteCarlo:
        """Return how tries ask about a point of a network that is random or not."""

    @abstractmethod
    def _climb(self, problem: Problem, eps: float, number: int, first_block: int, watch: Watch | None) -> Tensor:
        """Return the points that try `number` finds; examples that `watch` finds lost stay where they are."""

    @property
    def tries(self) -> int:
        """Return the restarts, times the targets."""
        return self.restarts * max(abs(self.targets), 1)

    def cost(self, eps: Sequence[float]) -> Cost:
        """Bound the passes of a curve for one image."""
        radii = len({e for e in eps if e > 0})
        looks = (self.stop_when_lost or self.targets != 0) * (radii > 0)
        judged = radii * self.tries if self.tries > 1 else max(radii - 1, 0) * self.stop_when_lost
        asking, blocks = self._asking(random=True), radii * self.tries * self._blocks
        own = self._block_cost * blocks + Cost(asking.samples, 0) * (looks + judged)
        return own + cost_of(asking, blocks + looks + judged) if self.stop_when_lost else own

    def ascending(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield the points found at each of `radii`."""
        if self.targets and problem.targets is not None:
            raise ValueError(f"`targets` must be given to the attack or to its call, got {self.targets} and classes")
        best, active, rivals = problem.images.clone(), problem.everyone(), None
        watch, looks = Watch.over(problem) if self.stop_when_lost else None, self.tries * (self._blocks + 1)
        if (watch or self.targets) and radii[-1] > 0:
            asking = self._asking(problem.random)
            clean = asking.score(problem, looks)
            self.check_classes(clean.probs.shape[1])
            active = active[~watch.lost(problem, asking, clean, looks)] if watch else active
            rivals = _others(clean.log_probs, problem.labels, self.targets) if self.targets else None
        for k, eps in enumerate(radii):
            if eps > 0:
                judged = self.tries > 1 or (self.stop_when_lost and eps < radii[-1])
                later = watch and watch.later(k * (looks + 1))
                active = self._best_of_tries(problem, rivals, eps, best, active, judged, later)
            yield best.clone()

    def _best_of_tries(
        self, problem: Problem, rivals: Tensor | None, eps: float, best: Tensor, active: Tensor, judged: bool,
        watch: Watch | None,
    ) -> Tensor:  # fmt: skip
        """Write the best point of each active example into `best`, and return the examples that go on."""
        highest = torch.full((len(best),), -torch.inf, dtype=torch.float64, device=best.device)
        won = torch.zeros_like(highest, dtype=torch.bool)
        for number in range(self.tries):
            if len(active) == 0:
                break
            goal = problem if rivals is None else replace(problem, targets=rivals[:, number % abs(self.targets)])
            first, own = number * (self._blocks + 1), watch and watch.part(active)
            points = self._climb(goal.part(active), eps, number, first, own)
            if not judged:
                best[active] = points
                continue
            asking, part, block = self._asking(problem.random), problem.part(active), first + self._blocks
            score = asking.score(part.at(points), block)
            wrong, aim = margin(score.log_probs, part.labels), part.targets
            lead = wrong if aim is None else -margin(score.log_probs, aim)  # above 0 where the attack succeeds
            wins, merit, held = lead > 0, lead if problem.random else score.rank.double(), won[active]
            lost = own.lost(part.at(points), asking, score, block) if own else torch.zeros_like(wins)
            better = lost | (wins & ~held) | ((wins == held) & ~(merit < highest[active]))
            kept = active[better]
            best[kept], highest[kept], won[kept] = points[better], merit[better], wins[better]
            active = active[~lost]
        return active


class GradientSearch(SearchAttack, GradientAttack):
    """An attack of several tries of as many gradient steps each."""

    steps: int

    @property
    def _block_cost(self) -> Cost:
        return self.gradient.cost

    @property
    def _blocks(self) -> int:
        return self.steps

    def _asking(self, random: bool) -> MonteCarlo:
        return self.gradient

    def steps_at(self, eps: float) -> int:
        """Return the steps of one try."""
        return self.steps

    def _head(self) -> str:
        return f"{self.title}-{self.steps}"


def _others(logs: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the `count` likeliest classes other than the label, likeliest first, or the -`count` least likely."""
    label = F.one_hot(labels, logs.shape[1]).bool()
    others = logs.masked_fill(label, -torch.inf if count > 0 else torch.inf)
    return others.topk(abs(count), 1, largest=count > 0).indices

"""Auto-PGD (Croce & Hein 2020): projected gradient ascent that chooses its own step size."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from saplab.attacks.base import GradientAttack
from saplab.attacks.estimate import Estimate, lost
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.problem import Problem
from saplab.attacks.search import Search
from saplab.system.registry import register

MOMENTUM = 0.75  # α of eq. 1


def checkpoints(steps: int) -> list[int]:
    """Return the steps w_j = ⌈p_j·N⌉ after which the step size is looked at: p_0 = 0, p_1 = 0.22 (section 3)."""
    shares = [0.0, 0.22]
    while shares[-1] + 0.06 <= 1.0:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted({math.ceil(round(share * steps, 6)) for share in shares[1:] if share <= 1.0})


@register("apgd")
@dataclass(frozen=True)
class APGD(GradientAttack):
    """Auto-PGD (Croce & Hein 2020, Algorithm 1), with an expectation over the adversary's passes in each step.

    Where passes differ, the highest loss so far is one of lucky draws: there the best point is estimated anew, with
    fresh samples, at each checkpoint, before it is compared or gone back to.

    Args:
        gradient: how each step's gradient is estimated; its loss ``cross-entropy`` gives APGD-CE, ``dlr`` APGD-DLR.
        steps: N of each try.
        restarts: tries, from other random starts and with other draws.
        rho: share of steps since the last checkpoint that must have raised the loss to keep the step size.
        targets: drive towards each of this many other classes in turn, the likeliest first, with the loss's targeted
            form (``dlr``: APGD-T); 0 for untargeted.
        stop_when_lost: as in `PGD`.

    Raises:
        ValueError: a number outside its range.

    Example:
        >>> attack = saplab.APGD(saplab.MonteCarlo(samples=10, backward="identity", loss="dlr"), steps=50)
        >>> adversarial = attack(sap, images, labels, eps=8 / 255, seed=1)
    """

    title = "APGD"
    names_loss = True
    gradient: MonteCarlo = field(default_factory=MonteCarlo)
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    targets: int = 0
    stop_when_lost: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be >= 1, got {self.steps}")
        if not 0 <= self.rho <= 1:
            raise ValueError(f"`rho` must be within [0, 1], got {self.rho}")
        self._search()

    def _search(self) -> Search:
        return Search(self.gradient, self.restarts, self.targets, self.stop_when_lost, blocks=self._estimates)

    @property
    def _estimates(self) -> int:
        """Count the estimates of a try: one at the start, one after each step, and one at each checkpoint."""
        return 1 + self.steps + len(checkpoints(self.steps))

    def ascending(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield adversarial images for each of `radii`."""
        return self._search().ascending(problem, radii, self._climb)

    def cost(self, eps: Sequence[float]) -> Cost:
        """Bound the passes of a curve for one image; a network that is not random takes none at checkpoints."""
        return self._search().cost(eps, self.gradient.cost * self._estimates)

    def steps_at(self, eps: float) -> int:
        """Return the steps of one try."""
        return self.steps

    def _head(self) -> str:
        return f"APGD-{self.steps}"

    def _climb(self, problem: Problem, eps: float, number: int, first_block: int) -> Tensor:
        points, looks = problem.random_start(eps, number), checkpoints(self.steps)
        estimate = self.gradient.estimate(problem.at(points), first_block)
        climber = _Climber.at(points, estimate, eps).part(self._going(estimate))
        for step in range(1, self.steps + 1):
            if len(climber.which) == 0:
                break
            part = problem.part(climber.which)
            climber.move(part, eps, MOMENTUM if step > 1 else 1.0)
            estimate = self.gradient.estimate(part.at(climber.x), first_block + step)
            climber.note(estimate)
            going = self._going(estimate)
            points[climber.which[~going]] = climber.x[~going]
            climber = climber.part(going)
            if step in looks and len(climber.which) > 0:
                last = max((w for w in looks if w < step), default=0)
                self._look(problem, climber, step - last, first_block + self.steps + 1 + looks.index(step))
        points[climber.which] = climber.best
        return points

    def _going(self, estimate: Estimate) -> Tensor:
        """Return which examples are attacked on."""
        gone = lost(estimate)
        return ~gone if self.stop_when_lost else torch.ones_like(gone)

    def _look(self, problem: Problem, climber: "_Climber", since: int, block: int) -> None:
        """Halve the step where condition 1 or 2 of section 3 holds, and go back to the best point there."""
        if problem.random:
            climber.reconsider(self.gradient.estimate(problem.part(climber.which).at(climber.best), block))
        few_rises = climber.rises < self.rho * since
        stuck = ~climber.halved & ~climber.improved
        climber.halve(few_rises | stuck)


@dataclass
class _Climber:
    """What the climb holds of the examples that it still moves, row by row (n, ...).

    Attributes:
        which: their positions in the problem.
        x, before: the present points and those of the step before.
        gradient, loss: at x.
        best, best_gradient, best_loss: the point of highest loss so far.
        step: η.
        rises: steps since the last checkpoint that raised the loss.
        improved: whether the highest loss rose since then.
        halved: whether η was halved then.
    """

    which: Tensor
    x: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor
    rises: Tensor
    improved: Tensor
    halved: Tensor

    @classmethod
    def at(cls, x: Tensor, estimate: Estimate, eps: float) -> "_Climber":
        """Start at the points x, with η = 2·eps."""
        g, f = estimate.gradient, estimate.loss
        which = torch.arange(len(x), device=x.device)
        never, step = torch.zeros_like(which, dtype=torch.bool), x.new_full((len(x), *[1] * (x.dim() - 1)), 2 * eps)
        return cls(which, x, x, g, f, x, g, f, step, torch.zeros_like(which), never, never)

    def part(self, mask: Tensor) -> "_Climber":
        """Return the rows where `mask` (n,) holds."""
        return self if bool(mask.all()) else _Climber(*(getattr(self, f.name)[mask] for f in fields(self)))

    def move(self, problem: Problem, eps: float, momentum: float) -> None:
        """Take a step: z = P(x + η·sign ∇f), x ← P(x + α(z - x) + (1 - α)(x - x_before))."""
        z = problem.project(self.x + self.step * self.gradient.sign(), eps)
        x = self.x + momentum * (z - self.x) + (1 - momentum) * (self.x - self.before)
        self.before, self.x = self.x, problem.project(x, eps)

    def note(self, estimate: Estimate) -> None:
        """Take in what was found at x."""
        self.rises = self.rises + (estimate.loss > self.loss)
        self.gradient, self.loss = estimate.gradient, estimate.loss
        better = self.loss > self.best_loss
        self.improved = self.improved | better
        self.best = _where(better, self.x, self.best)
        self.best_gradient = _where(better, self.gradient, self.best_gradient)
        self.best_loss = _where(better, self.loss, self.best_loss)

    def reconsider(self, estimate: Estimate) -> None:
        """Take in what fresh samples found at the best point."""
        self.best_gradient, self.best_loss = estimate.gradient, estimate.loss

    def halve(self, mask: Tensor) -> None:
        """Halve η and go back to the best point where `mask` holds, and begin to count anew."""
        self.step = _where(mask, self.step / 2, self.step)
        self.x, self.gradient = _where(mask, self.best, self.x), _where(mask, self.best_gradient, self.gradient)
        self.loss = _where(mask, self.best_loss, self.loss)
        self.halved, self.improved = mask, torch.zeros_like(mask)
        self.rises = torch.zeros_like(self.rises)


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose row by row."""
    return torch.where(mask.view(-1, *[1] * (yes.dim() - 1)), yes, no)

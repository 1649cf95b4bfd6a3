"""Auto-PGD (Croce & Hein 2020): projected gradient ascent that chooses its own step size."""

import math
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import Tensor

from saplab.attacks.estimate import Estimate
from saplab.attacks.gradient import MonteCarlo
from saplab.attacks.lost import Watch
from saplab.attacks.problem import Problem
from saplab.attacks.search import GradientSearch
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
class APGD(GradientSearch):
    """Auto-PGD (Croce & Hein 2020, Algorithm 1), with an expectation over the adversary's passes in each step.

    Where passes differ, the highest loss so far is one of lucky draws: there the best point is estimated anew, with
    fresh samples, at each checkpoint, before it is compared or gone back to.

    Attributes:
        gradient: how each step's gradient is estimated; its loss ``cross-entropy`` gives APGD-CE, ``dlr`` APGD-DLR.
        steps: N of each try.
        restarts: tries, from other random starts and with other draws.
        rho: share of steps since the last checkpoint that must have raised the loss to keep the step size.
        targets: drive towards each of this many other classes in turn, the likeliest first, with the loss's targeted
            form (``dlr``: APGD-T); -1 for the least likely class (Kurakin et al. 2017), -k for as many; 0 for
            untargeted.
        stop_when_lost: as in `PGD`.

    Examples:
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
        super().__post_init__()
        if not 0 <= self.rho <= 1:
            raise ValueError(f"`rho` must be within [0, 1], got {self.rho}")

    @property
    def _blocks(self) -> int:
        return 1 + self.steps + len(checkpoints(self.steps))  # at the start, after each step and at each checkpoint

    def _climb(self, problem: Problem, eps: float, number: int, first_block: int, watch: Watch | None) -> Tensor:
        points, looks = problem.random_start(eps, number), checkpoints(self.steps)
        estimate = self.gradient.estimate(problem.at(points), first_block)
        climber = _Climber.at(_Point.of(points, estimate), eps)
        climber = climber.part(self._going(problem.at(points), estimate, first_block, watch))
        for step in range(1, self.steps + 1):
            if len(climber.which) == 0:
                break
            part, block = problem.part(climber.which), first_block + step
            x = climber.moved(part, eps, MOMENTUM if step > 1 else 1.0)
            estimate = self.gradient.estimate(part.at(x), block)
            climber.note(_Point.of(x, estimate))
            going = self._going(part.at(x), estimate, block, watch and watch.part(climber.which))
            points[climber.which[~going]] = x[~going]
            climber = climber.part(going)
            if step in looks and len(climber.which) > 0:
                last = max((w for w in looks if w < step), default=0)
                self._look(problem, climber, step - last, first_block + self.steps + 1 + looks.index(step))
        points[climber.which] = climber.best.x
        return points

    def _going(self, present: Problem, estimate: Estimate, block: int, watch: Watch | None) -> Tensor:
        """Return which examples are attacked on."""
        if watch is None:
            return torch.ones_like(present.everyone(), dtype=torch.bool)
        return ~watch.lost(present, self.gradient, estimate, block)

    def _look(self, problem: Problem, climber: "_Climber", since: int, block: int) -> None:
        """Halve the step where condition 1 or 2 of section 3 holds, and go back to the best point there."""
        if problem.random:  # fresh samples decide about the best point
            x = climber.best.x
            climber.best = _Point.of(x, self.gradient.estimate(problem.part(climber.which).at(x), block))
        few_rises = climber.rises < self.rho * since
        stuck = ~climber.halved & ~climber.improved
        climber.halve(few_rises | stuck)


class _Point(NamedTuple):
    """Points (n, ...), the gradient there, and what orders them by their loss."""

    x: Tensor
    gradient: Tensor
    rank: Tensor

    @classmethod
    def of(cls, x: Tensor, estimate: Estimate) -> "_Point":
        return cls(x, estimate.gradient, estimate.rank)

    def where(self, mask: Tensor, other: "_Point") -> "_Point":
        """Take these points where `mask` (n,) holds, and the others elsewhere."""
        return _Point(*(torch.where(_wide(mask, a), a, b) for a, b in zip(self, other, strict=True)))


@dataclass
class _Climber:
    """What the climb holds of the examples that it still moves, row by row.

    Attributes:
        which: their positions in the problem.
        now, best: the present points and those of the highest loss so far.
        before: points (n, ...) of the step before.
        step: η.
        rises: steps since the last checkpoint that raised the loss.
        improved, halved: whether the highest loss rose since then, and whether η was halved then.
    """

    which: Tensor
    now: _Point
    best: _Point
    before: Tensor
    step: Tensor
    rises: Tensor
    improved: Tensor
    halved: Tensor

    @classmethod
    def at(cls, start: _Point, eps: float) -> "_Climber":
        """Start with η = 2·eps."""
        x = start.x
        which = torch.arange(len(x), device=x.device)
        never, step = torch.zeros_like(which, dtype=torch.bool), _wide(x.new_full((len(x),), 2 * eps), x)
        return cls(which, start, start, x, step, torch.zeros_like(which), never, never)

    def part(self, mask: Tensor) -> "_Climber":
        """Return the rows where `mask` (n,) holds."""
        values = (getattr(self, f.name) for f in fields(self))
        rows = (_Point(*(t[mask] for t in v)) if isinstance(v, _Point) else v[mask] for v in values)
        return self if bool(mask.all()) else _Climber(*rows)  # type: ignore[arg-type]

    def moved(self, problem: Problem, eps: float, momentum: float) -> Tensor:
        """Return the next points: z = P(x + ηd), d the steepest, then P(x + α(z - x) + (1 - α)(x - x_before))."""
        x = self.now.x
        z = problem.project(x + self.step * problem.steepest(self.now.gradient), eps)
        return problem.project(x + momentum * (z - x) + (1 - momentum) * (x - self.before), eps)

    def note(self, point: _Point) -> None:
        """Go on to the next point."""
        self.rises = self.rises + (point.rank > self.now.rank)
        better = point.rank > self.best.rank
        self.before, self.now, self.best = self.now.x, point, point.where(better, self.best)
        self.improved = self.improved | better

    def halve(self, mask: Tensor) -> None:
        """Halve η and go back to the best point where `mask` holds, and begin to count anew."""
        self.step = torch.where(_wide(mask, self.step), self.step / 2, self.step)
        self.now = self.best.where(mask, self.now)
        self.halved, self.improved = mask, torch.zeros_like(mask)
        self.rises = torch.zeros_like(self.rises)


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    """Return a value for each row, (n,), in the shape (n, 1, ...) that goes with `like`."""
    return rows.view(-1, *[1] * (like.dim() - 1))

"""Attacks of many equal steps along the gradient: the paper's, and projected gradient descent."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saplab.attacks.base import GradientAttack
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.lost import Watch, cost_of
from saplab.attacks.norms import Norm
from saplab.attacks.problem import Problem
from saplab.attacks.search import GradientSearch
from saplab.attacks.threat import STEPS
from saplab.system.registry import register


@dataclass(frozen=True)
class Ascent:
    """Steps of one length in the steepest direction of the gradient, or of its decaying sum.

    Attributes:
        gradient: how each step's gradient is estimated.
        eps: radius of the ball.
        step: length of a step, in the unit of `eps`.
        steps: how many.
        momentum: share μ of the last velocity that stays, v ← μ·v + g/‖g‖ (Dong et al. 2018, eq. 6) in the dual norm,
            ‖g‖₁ for the maximum norm; 0 for none.
    """

    gradient: MonteCarlo
    eps: float
    step: float
    steps: int
    momentum: float = 0.0

    def path(
        self, problem: Problem, start: Tensor, first_block: int = 0, watch: Watch | None = None
    ) -> Iterator[Tensor]:
        """Yield the points after each step, every step with a fresh block of samples.

        Examples stay where `watch` finds them lost; nobody does without one.
        """
        points, active = start.clone(), problem.everyone()
        velocity = torch.zeros_like(points)
        for block in range(first_block, first_block + self.steps):
            if len(active) > 0:
                present = problem.part(active).at(points[active])
                estimate = self.gradient.estimate(present, block)
                going = torch.ones_like(active, dtype=torch.bool)
                if watch is not None:
                    going = ~watch.part(active).lost(present, self.gradient, estimate, block)
                active = active[going]
                scaled = _normalised(estimate.gradient[going], problem.threat.geometry)
                velocity[active] = self.momentum * velocity[active] + scaled
                moved = points[active] + self.step * problem.steepest(velocity[active])
                points[active] = problem.part(active).project(moved, self.eps)
            yield points.clone()


def _normalised(gradient: Tensor, norm: Norm) -> Tensor:
    """Divide by the dual norm, up to a constant, which no direction sees."""
    size = norm.dual(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / size.view(-1, *[1] * (gradient.dim() - 1))


@register("iterative")
@dataclass(frozen=True)
class Iterative(GradientAttack):
    """The paper's iterative attack (section 4.5; Madry et al. 2017): ⌈λ/k⌉ steps of k pixel steps from the image.

    Each step goes along the steepest direction of a gradient of fresh samples, and back on to the ball and the valid
    values. After t steps nothing is farther than t·k, so one path of the largest λ passes the points of all smaller
    ones, ⌈λ/k⌉ steps in. In other norms and bounds a step has the length k/255 as well: at ε = 0.5 in L2, 8 steps for
    k = 16.

    Attributes:
        step: k, in pixel steps: 1/255 of the images' unit.
        gradient: how each step's gradient is estimated.
        stop_when_lost: whether an example stays where its averaged prediction is wrong beyond doubt; see `PGD`.
    """

    title = "iterative"
    step: float = 1.0
    gradient: MonteCarlo = field(default_factory=MonteCarlo)
    stop_when_lost: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.step < math.inf:
            raise ValueError(f"`step` must be > 0 pixel steps, got {self.step}")

    def steps_at(self, eps: float) -> int:
        """Return ⌈λ/k⌉, at least 1, where λ = 255·eps is known to a millionth."""
        return max(1, self._steps(eps))

    def _steps(self, eps: float) -> int:
        return math.ceil(round(eps * STEPS / self.step, 6))

    def ascending(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield adversarial images for each of `radii`, from one path."""
        top, points, done = radii[-1], problem.images, 0
        ascent = Ascent(self.gradient, top, self.step / STEPS, self._steps(top))
        path = ascent.path(problem, problem.images, watch=Watch.over(problem) if self.stop_when_lost else None)
        for radius in radii:
            while done < self._steps(radius):
                points, done = next(path), done + 1
            yield problem.project(points, radius)

    def cost(self, eps: Sequence[float]) -> Cost:
        """Bound the passes of a curve for one image: those of its largest radius."""
        steps = self._steps(max(eps, default=0.0))
        asked = cost_of(self.gradient, steps) if self.stop_when_lost else Cost(0, 0)
        return self.gradient.cost * steps + asked


@register("pgd")
@dataclass(frozen=True)
class PGD(GradientSearch):
    """Projected gradient descent (Madry et al. 2017), with an expectation over the adversary's passes in each step.

    A try ends with its last point, not with the best one on its way: among many noisy estimates the best is one of
    lucky draws. Fresh passes decide among tries (see `SearchAttack`).

    Attributes:
        gradient: how each step's gradient is estimated.
        steps: of each try.
        restarts: tries, from other random starts and with other draws.
        relative_step: length of a step as a share of `eps`; 2.5 / `steps` by default.
        momentum: 0 for none; 1 is MI-FGSM's choice (Dong et al. 2018).
        random_start: whether a try starts uniformly within the ball, instead of at the image.
        targets: drive towards each of this many other classes in turn, the likeliest first, with the loss's targeted
            form (Gowal et al. 2019); -1 for the least likely class (Kurakin et al. 2017), -k for as many; 0 for
            untargeted.
        stop_when_lost: whether an example that is lost, by its averaged prediction and beyond doubt (see
            `saplab.attacks.Watch`), is attacked no more, at this and at larger `eps`. Take False where the adversary is
            not the defender (transfer), whose errors are others, and where single passes count, of which some may still
            be right. Only then is a point of a curve the same as that of its `eps` alone.

    Examples:
        >>> attack = saplab.PGD(saplab.MonteCarlo(samples=10, backward="identity"), steps=20)
        >>> adversarial = attack(sap, images, labels, eps=8 / 255, seed=1)
    """

    title = "PGD"
    gradient: MonteCarlo = field(default_factory=MonteCarlo)
    steps: int = 20
    restarts: int = 1
    relative_step: float | None = None
    momentum: float = 0.0
    random_start: bool = True
    targets: int = 0
    stop_when_lost: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relative_step is not None and not 0 < self.relative_step < math.inf:
            raise ValueError(f"`relative_step` must be > 0, got {self.relative_step}")
        if not 0 <= self.momentum < math.inf:
            raise ValueError(f"`momentum` must be >= 0, got {self.momentum}")

    def _climb(self, problem: Problem, eps: float, number: int, first_block: int, watch: Watch | None) -> Tensor:
        share = 2.5 / self.steps if self.relative_step is None else self.relative_step
        ascent = Ascent(self.gradient, eps, share * eps, self.steps, self.momentum)
        start = problem.random_start(eps, number) if self.random_start else problem.images
        return deque(ascent.path(problem, start, first_block, watch), maxlen=1).pop()

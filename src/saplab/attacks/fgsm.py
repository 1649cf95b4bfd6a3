"""Attacks of one step: along noise, and along the gradient. A whole curve of radii costs one direction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor

from saplab.attacks.base import Attack, Craft, GradientAttack
from saplab.attacks.flatness import Flatness
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.problem import Problem
from saplab.system.registry import register


@register("noise")
@dataclass(frozen=True)
class RandomNoise(Attack):
    """A random perturbation as large as FGSM's (Fig. 1a).

    In the maximum norm each value moves by +eps or -eps with equal chance; in L2 the direction is uniform.
    """

    knowledge = "nothing"
    title = "random noise"

    def ascending(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield perturbed images for each of `radii`, all in one direction."""
        return _along(problem, problem.threat.geometry.direction(problem.noise(), problem.images), radii)

    def cost(self, eps: Sequence[float]) -> Cost:
        """Return no passes."""
        return Cost(0, 0)


@register("fgsm")
@dataclass(frozen=True)
class FGSM(GradientAttack):
    """The fast gradient sign method (Goodfellow et al. 2014): x + eps · sign(E[∇J]), clipped to valid values.

    In L2 it is the fast gradient method, along E[∇J] itself: in either norm the valid point of the ball where the loss,
    made linear at x, is largest.

    Attributes:
        gradient: how the expectation over the adversary's passes is estimated.

    Examples:
        >>> attack = saplab.FGSM(saplab.MonteCarlo(samples=100, backward="mask"))
        >>> adversarial = attack(sap, images, labels, eps=8 / 255, seed=1)
    """

    title = "FGSM"
    gradient: MonteCarlo = field(default_factory=MonteCarlo)

    def ascending(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield adversarial images for each of `radii`, from one gradient."""
        return _along(problem, self.gradient.estimate(problem).gradient, radii)

    def cost(self, eps: Sequence[float]) -> Cost:
        """Return the passes of one gradient, which serves all radii."""
        return self.gradient.cost

    @property
    def family(self) -> "FGSM":
        """Return the attack without its number of samples: a larger budget's gradient passes the smaller ones'."""
        return replace(self, gradient=replace(self.gradient, samples=1)) if self._nests else self

    @property
    def _nests(self) -> bool:
        return self.gradient.average == "loss" and type(self).ascending is FGSM.ascending

    def craft(self, members: Sequence[Attack], problem: Problem, eps: Sequence[float]) -> Iterator[Craft]:
        """Make the images of all budgets from the gradient of the largest; see `Attack.craft`."""
        if not (eps and self._nests):
            yield from super().craft(members, problem, eps)
            return
        noted = replace(problem, flatness=Flatness(problem.examples))
        by_budget = {member.samples: cast(FGSM, member) for member in members}
        budgets = sorted(by_budget)
        for budget, found in zip(budgets, self.gradient.nested(noted, budgets), strict=True):
            norm = found.gradient.flatten(1).norm(dim=1)
            flatness = Flatness(problem.examples)
            flatness.note(problem.examples, found)
            for radius in eps:
                flatness.done(radius)
            yield Craft(by_budget[budget], _along(problem, found.gradient, eps), found.half_cosine, norm, flatness)

    def _head(self) -> str:
        return "FGSM" if self.gradient.samples == 1 else "MC-FGSM"


def _along(problem: Problem, gradient: Tensor, radii: Sequence[float]) -> Iterator[Tensor]:
    return (problem.farthest(gradient, e) for e in radii)

"""Attacks of one step: random signs, and the sign of the gradient. A whole accuracy-λ curve costs one direction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from saplab.attacks.base import Attack, Craft, GradientAttack
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.problem import Problem
from saplab.attacks.threat import LINF, ThreatModel
from saplab.rng.streams import pass_streams, random_words, stream_key
from saplab.system.registry import register


@register("noise")
@dataclass(frozen=True)
class RandomNoise(Attack):
    """Each pixel moves by +eps or -eps with equal chance: a random perturbation as large as FGSM's (Fig. 1a)."""

    knowledge = "nothing"
    title = "random noise"

    def ascending(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield perturbed images for each of `radii`, all in one direction."""
        signs = random_signs(problem.images, stream_key(problem.seed, "noise"), problem.examples)
        return (problem.project(problem.images + e * signs, e) for e in radii)

    def cost(self, eps: Sequence[float]) -> Cost:
        """Return no passes."""
        return Cost(0, 0)


def random_signs(images: Tensor, key: int, examples: Tensor) -> Tensor:
    """Draw a tensor of -1 and +1 like `images` (N, ...), a function of the key and each example's number."""
    size = images[0].numel()
    words = random_words(pass_streams(key, 0, examples), -(-size // 32))
    bits = np.unpackbits(words.view(np.uint8), axis=1)[:, :size]
    return torch.from_numpy(bits).view(images.shape).to(images) * 2 - 1


@register("fgsm")
@dataclass(frozen=True)
class FGSM(GradientAttack):
    """The fast gradient sign method (Goodfellow et al. 2014): x + eps · sign(E[∇J]), clipped to valid pixels.

    Attributes:
        gradient: how the expectation over the adversary's passes is estimated.

    Example:
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

    def craft(
        self, members: Sequence[Attack], adversary: nn.Module, images: Tensor, labels: Tensor, eps: Sequence[float],
        seed: int, *, examples: Tensor, threat: ThreatModel = LINF,
    ) -> Iterator[Craft]:  # fmt: skip
        """Make the images of all budgets from the gradient of the largest; see `Attack.craft`."""
        if not (eps and self._nests):
            yield from super().craft(members, adversary, images, labels, eps, seed, examples=examples, threat=threat)
            return
        problem = Problem.of(adversary, images, labels, eps, seed, examples=examples, threat=threat)
        by_budget = {member.samples: cast(FGSM, member) for member in members}
        budgets = sorted(by_budget)
        for budget, found in zip(budgets, self.gradient.nested(problem, budgets), strict=True):
            norm = found.gradient.flatten(1).norm(dim=1)
            yield Craft(by_budget[budget], _along(problem, found.gradient, eps), found.half_cosine, norm)

    def _head(self) -> str:
        return "FGSM" if self.gradient.samples == 1 else "MC-FGSM"


def _along(problem: Problem, gradient: Tensor, radii: Sequence[float]) -> Iterator[Tensor]:
    sign = gradient.sign()
    return (problem.project(problem.images + e * sign, e) for e in radii)

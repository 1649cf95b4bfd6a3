"""ARC (Dbouk & Shanbhag 2022): the attack on a mixture that knows its networks one by one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from saplab.attacks.base import Attack
from saplab.attacks.flatness import broken
from saplab.attacks.gradient import Cost
from saplab.attacks.norms import Norm
from saplab.attacks.problem import Problem
from saplab.attacks.threat import check_labels
from saplab.defenses.defended import defenses_of, is_random
from saplab.defenses.mixture import Mixture
from saplab.defenses.parallel import over_threads
from saplab.defenses.prediction import BATCH, logits
from saplab.defenses.stochastic import learn
from saplab.system.counts import check_count
from saplab.system.registry import register

BEYOND: Final = 0.05  # ρ: how far beyond a boundary to go, as a share of ε
USUAL: Final = 2  # networks of the mixture that `cost` counts on
ROUNDING: Final = 1e-9  # of sums of weights


@register("arc")
@dataclass(frozen=True)
class ARC(Attack):
    """ARC (Dbouk & Shanbhag 2022, Algorithm 2): against a `Mixture` of networks without randomness of their own.

    The gradient of the expected loss may vanish, or point away from the only adversarial example, where the networks'
    gradients cancel. ARC goes through the networks instead, the most likely first. Each proposes to go towards its own
    nearest decision boundary, found by linearisation, as far as it takes beside what the others have proposed. A
    proposal is kept where the expected accuracy, which is known exactly, is no higher.

    One thing differs from the authors' code: see docs/attacks.md.

    Attributes:
        steps: K, rounds over all networks.
        relative_step: η, the length of a round's change, as a share of `eps`. The authors take 1 for L∞ and 1/4 for L2.
        rivals: how many other classes, the likeliest first, a boundary is looked for with.
        stop_when_lost: whether an example that every network gets wrong is attacked no more, at this and larger `eps`.

    Examples:
        >>> mixture = saplab.Mixture([first, second], weights=[0.9, 0.1])
        >>> adversarial = saplab.ARC()(mixture, images, labels, eps=8 / 255)
        >>> mixture.accuracy(adversarial, labels)
    """

    claim = "The attacker knows the networks of the mixture one by one, and their weights."
    steps: int = 20
    relative_step: float = 1.0
    rivals: int = 9
    stop_when_lost: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "rivals"):
            check_count(name, getattr(self, name))
        if not 0 < self.relative_step < math.inf:
            raise ValueError(f"`relative_step` must be > 0, got {self.relative_step}")

    def steps_at(self, eps: float) -> int:
        """Return the rounds."""
        return self.steps

    def describe(self, rules: bool) -> str:
        """Return the attack's name for people: rounds, and settings that are not the usual ones."""
        return " ".join([f"{self.title}-{self.steps}", *self._unusual("steps")])

    def cost(self, eps: Sequence[float]) -> Cost:
        """Bound the passes of a curve for one image, each through one network, of a mixture of two networks.

        In a round each network gives its gradients, and every network judges what is then proposed: of M networks, M(M
        + 1) / 6 as many passes forward and M/2 as many backward.
        """
        rounds = len({radius for radius in eps if radius > 0}) * self.steps * USUAL
        return Cost(USUAL * (rounds > 0) + rounds * (1 + USUAL), rounds * (1 + self.rivals))

    def ascending(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield the points found at each of `radii`, or at a smaller one where these are no worse."""
        best = problem.images.clone()
        if radii[-1] > 0:
            members = _Members.of(problem)
            clean = members.accuracy(best, problem.labels)
            left = clean.clone()
        for eps in radii:
            if eps > 0:
                rows = self._going(problem.everyone(), left)
                points, found = self._search(members, problem.part(rows), clean[rows], eps)
                better = found <= left[rows] + ROUNDING
                best[rows[better]], left[rows[better]] = points[better], found[better]
            yield best.clone()

    def _going(self, rows: Tensor, left: Tensor) -> Tensor:
        """Return which of the rows are attacked on, by the accuracy that is left of all."""
        return rows[left[rows] > ROUNDING] if self.stop_when_lost else rows

    def _search(self, members: "_Members", problem: Problem, clean: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Return the points after all rounds, and the accuracy (N,) that is left there."""
        points, left, rows = problem.images.clone(), clean.clone(), problem.everyone()
        for _ in range(self.steps):
            rows = self._going(rows, left)
            if len(rows) == 0:
                break
            part = problem.part(rows)
            change, left[rows] = self._round(members, part, points[rows], left[rows], eps)
            points[rows] = part.project(points[rows] + change, eps)
        return points, left

    def _round(
        self, members: "_Members", problem: Problem, centre: Tensor, left: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Return the change d of norm η, or 0, after all networks' proposals, and the accuracy that it leaves."""
        change, size, norm = torch.zeros_like(centre), self.relative_step * eps, problem.threat.geometry
        for k, net in enumerate(members.nets):
            zeta, w = members.nearest(net, centre + change, self.rivals)
            beta = torch.full_like(zeta, size)
            if k > 0:  # as far as it takes for what is rescaled to η to cross this boundary as well
                whole = zeta - _inner(w, change) / _dual(w, norm).clamp(min=torch.finfo(torch.float64).tiny)
                beta = torch.where(whole < size, size / (size - whole) * zeta + BEYOND * eps, beta)
            candidate = change + _wide(beta, w) * problem.steepest(-w)
            length = norm.size(candidate).clamp(min=torch.finfo(candidate.dtype).tiny)
            candidate = _wide(size / length, w) * candidate
            found = members.accuracy(problem.project(centre + candidate, eps), problem.labels)
            kept = found <= left + ROUNDING
            change[kept], left = candidate[kept], torch.where(kept, found, left)
        return change, left


@dataclass(frozen=True)
class _Members:
    """The networks of a mixture, the most likely first.

    Attributes:
        nets: as saplab runs them.
        shares: the probability of each.
        norm: in which changes are measured.
        strict: whether a gradient that does not reach the image, or is not finite, is an error, or else 0.
        rows: images of one pass.
    """

    nets: tuple[nn.Module, ...]
    shares: tuple[float, ...]
    norm: Norm
    strict: bool
    rows: int

    @classmethod
    def of(cls, problem: Problem) -> "_Members":
        """Ask the adversary for its networks; ValueError where it has none that could be attacked one by one."""
        mixture = problem.adversary
        if not isinstance(mixture, Mixture):
            raise ValueError(f"arc attacks a saplab.Mixture alone, got {type(mixture).__name__}")
        if defenses_of(mixture) or (len(mixture.nets) > 1 and not problem.random):
            raise ValueError("arc attacks a saplab.Mixture without defences on it, whose draw is not frozen")
        if problem.targets is not None:
            raise ValueError("arc knows no `targets`: it goes to the nearest other class")
        shares = [share for share in sorted(mixture.weights.tolist(), reverse=True) if share > 0]
        order = mixture.weights.argsort(descending=True, stable=True)[: len(shares)].tolist()
        nets = tuple(learn(mixture.nets[k], problem.images)[0] for k in order)
        if any(map(is_random, nets)):
            raise ValueError("arc attacks a mixture of networks that are not random themselves")
        rows = problem.batch_size or BATCH
        return cls(nets, tuple(shares), problem.threat.geometry, problem.flatness is None, rows)

    def accuracy(self, points: Tensor, labels: Tensor) -> Tensor:
        """Return the expected accuracy of each point, (N,) float64: Σ_i α_i·1[f_i right]."""
        total = torch.zeros(len(points), dtype=torch.float64, device=points.device)
        for net, share in zip(self.nets, self.shares, strict=True):

            def run(x: Tensor, net: nn.Module = net) -> tuple[Tensor, ...]:
                with torch.no_grad():
                    z = logits(net, x)
                check_labels(labels, z.shape[1])
                return (z.argmax(1),)

            answers = torch.cat([over_threads(net, run, some)[0] for some in points.split(self.rows)])
            total += share * (answers == labels)
        return total

    def nearest(self, net: nn.Module, points: Tensor, rivals: int) -> tuple[Tensor, Tensor]:
        """Return the distance ζ (N,) of a network's nearest linearised boundary, and its normal w (N, ...).

        That is ζ = |f_m - f_j| / ‖w‖_q with w = ∇(f_m - f_j), of the top class m and the class j where it is least;
        infinite and 0 where no gradient tells any.
        """

        def run(x: Tensor) -> tuple[Tensor, ...]:
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                z = logits(net, x)
                top = z.topk(min(rivals + 1, z.shape[1]), 1).values
                slopes = (self._slope(top[:, k].sum(), x) for k in range(top.shape[1]))
                own, zeta = next(slopes), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
                nearest = torch.zeros_like(own)
                for k, slope in enumerate(slopes, 1):
                    w = own - slope
                    length = _dual(w, self.norm)
                    distance = torch.where(length > 0, (top[:, 0] - top[:, k]).detach() / length, torch.inf)
                    zeta, nearest = zeta.minimum(distance), torch.where(_wide(distance < zeta, w), w, nearest)
            return zeta, nearest

        parts = [over_threads(net, run, some) for some in points.split(self.rows)]
        zeta, w = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return zeta, w

    def _slope(self, total: Tensor, x: Tensor) -> Tensor:
        slope = None
        if total.requires_grad:
            (slope,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
        slope = torch.full_like(x, torch.nan) if slope is None else slope
        bad = broken(slope)
        if self.strict and bad.any():
            raise ValueError("the gradient of a network of the mixture does not reach the image, or is not finite")
        return slope.masked_fill(_wide(bad, slope), 0.0)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product of each example's tensors, (N,) float64."""
    return (one.double() * other.double()).flatten(1).sum(1)


def _dual(w: Tensor, norm: Norm) -> Tensor:
    """Return the dual norm of each w, (N,) float64: its inner product with the change of norm 1 that raises it most."""
    return _inner(w, norm.steepest(w))


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    """Return a value for each row, (n,), in the shape and type (n, 1, ...) that goes with `like`."""
    wide = rows.view(-1, *[1] * (like.dim() - 1))
    return wide.to(like.dtype) if wide.is_floating_point() else wide

"""The weights with which networks should be mixed: a game against stored points, and against replies to its solution.

Source: the double oracle of McMahan, Gordon & Blum 2003, "Planning in the presence of cost functions controlled by an
adversary", for the game of Pinot et al. 2020, "Randomization matters".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saplab.attacks import ARC, PGD, Attack, Bounds, NormName, ThreatModel
from saplab.data.given import Array, given_images, given_labels
from saplab.defenses import Mixture
from saplab.defenses.prediction import for_network
from saplab.metrics import Interval, mean_interval
from saplab.metrics.mixing import best_weights, worst_of

ENOUGH: Final = 0.005  # accuracy that a reply must take away for the game to go on
FIRST: Final = (PGD(),)
REPLY: Final = ARC()


@dataclass(frozen=True)
class Round:
    """One round of the game.

    Attributes:
        weights: (M,) the best ones against the points so far.
        promised: the accuracy that they leave there: no other weights leave more.
        kept: what is left of it with the attacker's reply, points made for these very weights, among the points.
    """

    weights: tuple[float, ...]
    promised: float
    kept: float


@dataclass(frozen=True, eq=False)
class Mixing:
    """The mixture that a game found, and what it leaves an attacker who chooses a point for each image.

    Attributes:
        nets: the M networks.
        weights: (M,) the ones of the round that leave most at all points, those of later replies included.
        accuracy: that is left: of the worst point of each image, expected over the draw of the network.
        alone: the same of each network alone.
        rounds: what each promised, and what the reply left.
        right: (M, A, N) 1 where a network is right on the a-th point of an image, 0 where not; the first point is the
            image itself.
        points: (A, N, ...) where that was found out.
    """

    nets: tuple[nn.Module, ...]
    weights: tuple[float, ...]
    accuracy: Interval
    alone: tuple[Interval, ...]
    rounds: tuple[Round, ...]
    right: NDArray[np.float64]
    points: Tensor

    @property
    def mixture(self) -> Mixture:
        """Return the networks mixed by these weights."""
        return Mixture(self.nets, self.weights)

    @property
    def settled(self) -> bool:
        """Return whether the last reply took no more than `ENOUGH` away."""
        return self.rounds[-1].promised - self.rounds[-1].kept <= ENOUGH

    def __repr__(self) -> str:
        lines = [f"weights {_text(self.weights)}: {self.accuracy.percent()} left at the worst of {len(self.points)}"
                 f" points of each of {self.accuracy.n} images"]  # fmt: skip
        lines += [f"network {k} alone: {left.percent()}" for k, left in enumerate(self.alone, 1)]
        lines += [f"round {k}: weights {_text(one.weights)} promise {100 * one.promised:.1f} %, a reply leaves"
                  f" {100 * one.kept:.1f} %" for k, one in enumerate(self.rounds, 1)]  # fmt: skip
        return "\n".join(lines if self.settled else [*lines, "The last reply still took something: more rounds help."])


def mix(
    nets: Sequence[nn.Module], images: Array, labels: Array, eps: float, *, attacks: Sequence[Attack] = FIRST,
    reply: Attack = REPLY, points: Sequence[Array] = (), rounds: int = 10, norm: NormName = "linf",
    bounds: Bounds = (0.0, 1.0), seed: int = 0,
) -> Mixing:  # fmt: skip
    """Find the weights of a mixture of which attacks leave most, by the game of defender and attacker.

    The defender draws a network for each prediction; the attacker knows the weights and not the draw, and chooses a
    point for each image. The game begins with the images, those of `attacks` on each network alone, and `points`. In
    each round the weights are the best ones against all points so far, by linear programming
    (`saplab.metrics.mixing.best_weights`); the attacker replies with points made for that mixture, which join them.
    It ends when a reply takes no more than half a point (`ENOUGH`), or after so many rounds.

    What is left is an upper bound, as with all attacks, and the weights are chosen on these very images: judge the
    mixture by `saplab.evaluate` on others.

    Args:
        nets: at least one network without randomness, images (N, ...) -> logits.
        images: (N, ...) within `bounds`.
        labels: (N,) integers.
        eps: radius of the attacker, in the unit of the images.
        attacks: made on each network, with which the game begins.
        reply: made on the mixture in each round. Others than `ARC` must average over its draws, and go on where the
            average is wrong: ``saplab.PGD(saplab.MonteCarlo(10), stop_when_lost=False)``.
        points: stored ones, (N, ...) each, within the radius of the images.
        rounds: at most.
        norm: as in `saplab.evaluate`.
        bounds: likewise.
        seed: of the attacks.

    Raises:
        ValueError: `rounds` < 1, points that are outside the ball, or as `Mixture` and the attacks.

    Examples:
        >>> found = saplab.mix([first, second], images, labels, eps=8 / 255)
        >>> saplab.evaluate(found.mixture, other_images, other_labels, eps=8 / 255).verdict
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be >= 1, got {rounds}")
    first = Mixture(nets)
    pictures = for_network(first, given_images(images))
    wanted = given_labels(labels, len(pictures)).to(pictures.device)
    threat = ThreatModel(norm, bounds)
    threat.check(pictures, wanted, [eps])

    def made(attack: Attack, net: nn.Module) -> Tensor:
        return attack(net, pictures, wanted, eps, seed, norm=norm, bounds=bounds)

    stored = [_within(threat, given_images(some), pictures, eps) for some in points]
    known = _Known(first, wanted)
    for some in (pictures, *stored, *(made(attack, net) for net in nets for attack in attacks)):
        known.add(some)
    played: list[Round] = []
    while len(played) < rounds:
        promised, weights = best_weights(known.right)
        known.add(made(reply, _mixed(nets, weights)))
        played.append(Round(tuple(weights.tolist()), promised, float(worst_of(known.right, weights).mean())))
        if promised - played[-1].kept <= ENOUGH:
            break
    best = max((one.weights for one in played), key=lambda weights: worst_of(known.right, weights).mean())
    left = [mean_interval(worst_of(known.right, weights), 1) for weights in (best, *np.eye(len(nets)))]
    return Mixing(tuple(nets), best, left[0], tuple(left[1:]), tuple(played), known.right, torch.stack(known.points))


class _Known:
    """Points, and which networks are right there."""

    def __init__(self, mixture: Mixture, labels: Tensor) -> None:
        self.points: list[Tensor] = []
        self._alone = [Mixture([net]) for net in mixture.nets]
        self._labels = labels
        self._right: list[NDArray[np.float64]] = []

    def add(self, points: Tensor) -> None:
        """Ask every network about points (N, ...)."""
        self.points.append(points.detach())
        answers = (net.expected(points).gather(1, self._labels[:, None])[:, 0] for net in self._alone)
        self._right.append(torch.stack(list(answers)).cpu().numpy())

    @property
    def right(self) -> NDArray[np.float64]:
        """Return 0 or 1 for each network, point and image, (M, A, N)."""
        return np.stack(self._right, axis=1)


def _within(threat: ThreatModel, points: Tensor, images: Tensor, eps: float) -> Tensor:
    found = points.to(images)
    if found.shape != images.shape or not threat.holds(found, images, eps):
        raise ValueError(f"`points` must be {tuple(images.shape)}, within {eps:g} of the images and valid")
    return found


def _mixed(nets: Sequence[nn.Module], weights: NDArray[np.float64]) -> Mixture:
    """Return the networks that are drawn at all, mixed."""
    return Mixture(
        [net for net, weight in zip(nets, weights, strict=True) if weight > 0], weights[weights > 0].tolist()
    )


def _text(weights: Sequence[float]) -> str:
    return ", ".join(f"{weight:.3f}" for weight in weights)

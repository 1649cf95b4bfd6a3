"""Norms in which a perturbation is measured: each is an object with all that attacks ask of one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from saplab.rng.numbers import normals
from saplab.rng.streams import random_words

NormName = Literal["linf", "l2"]
Bounds = tuple[float, float] | None  # lowest and highest valid value; None where every number is valid

STARTS: Final = 5  # kind of these random numbers, see `saplab.rng.streams`


class Norm(ABC):
    """A norm of changes (N, ...), one number for each of N examples.

    Attributes:
        label: what a sentence calls it.
        usual: the radius that papers report for [0, 1] images.
    """

    label: str
    usual: float

    @abstractmethod
    def size(self, change: Tensor) -> Tensor:
        """Return the norm of each change, (N,), float64."""

    @abstractmethod
    def dual(self, gradient: Tensor) -> Tensor:
        """Return the dual norm of each gradient, (N,), up to a factor that is the same for all."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the changes of norm 1 along which functions with these gradients rise fastest; 0 for a zero one."""

    @abstractmethod
    def project(self, points: Tensor, centre: Tensor, eps: float, bounds: Bounds) -> Tensor:
        """Return the nearest points within `eps` of `centre` and within the bounds, where `centre` lies."""

    @abstractmethod
    def farthest(self, gradient: Tensor, centre: Tensor, eps: float, bounds: Bounds) -> Tensor:
        """Return the points within `eps` of `centre` and the bounds where linear functions are largest."""

    @abstractmethod
    def in_ball(self, streams: Tensor, like: Tensor) -> Tensor:
        """Draw points uniform by volume in the ball of radius 1, (N, ...) as `like`, a function of the streams."""

    @abstractmethod
    def direction(self, streams: Tensor, like: Tensor) -> Tensor:
        """Draw random changes of norm 1, as large in every coordinate as a steepest one's."""

    @abstractmethod
    def holding_cube(self, half: float, count: int) -> float:
        """Return the radius of the ball that holds a cube of `count` coordinates from -half to half."""

    @abstractmethod
    def slack(self, eps: float, scale: float, count: int) -> float:
        """Return what rounding of float32 values as large as `scale` may add to a norm of `eps`."""


class LInf(Norm):
    """The maximum norm: the largest change of a value."""

    label = "L∞"
    usual = 8 / 255

    def size(self, change: Tensor) -> Tensor:
        """Return the largest change of each example's values."""
        return change.flatten(1).abs().amax(1).double()

    def dual(self, gradient: Tensor) -> Tensor:
        """Return the mean size of each gradient's entries: ‖g‖₁ divided by their number."""
        return gradient.flatten(1).abs().mean(1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient's sign."""
        return gradient.sign()

    def project(self, points: Tensor, centre: Tensor, eps: float, bounds: Bounds) -> Tensor:
        """Clip to the cube and to the bounds: clip_{x,λ} of the SAP paper's section 4.5."""
        return _clip(torch.minimum(torch.maximum(points, centre - eps), centre + eps), bounds)

    def farthest(self, gradient: Tensor, centre: Tensor, eps: float, bounds: Bounds) -> Tensor:
        """Go by `eps` along the gradient's sign."""
        return self.project(centre + eps * gradient.sign(), centre, eps, bounds)

    def in_ball(self, streams: Tensor, like: Tensor) -> Tensor:
        """Draw each coordinate uniform in [-1, 1)."""
        words = random_words(streams, like[0].numel(), kind=STARTS) >> np.uint32(8)
        return 2 * (torch.from_numpy(words.astype(np.float32)).view(like.shape).to(like) * 2.0**-24) - 1

    def direction(self, streams: Tensor, like: Tensor) -> Tensor:
        """Draw -1 or 1 for each coordinate."""
        size = like[0].numel()
        words = random_words(streams, -(-size // 32))
        bits = np.unpackbits(words.view(np.uint8), axis=1)[:, :size]
        return torch.from_numpy(bits).view(like.shape).to(like) * 2 - 1

    def holding_cube(self, half: float, count: int) -> float:
        """Return `half`: the ball is a cube."""
        return half

    def slack(self, eps: float, scale: float, count: int) -> float:
        """Return a hundred-thousandth of the scale."""
        return 1e-5 * scale


class L2(Norm):
    """The Euclidean norm."""

    label = "L2"
    usual = 0.5

    def size(self, change: Tensor) -> Tensor:
        """Return the Euclidean length of each change."""
        length: Tensor = change.flatten(1).double().norm(dim=1)
        return length

    def dual(self, gradient: Tensor) -> Tensor:
        """Return the Euclidean length of each gradient."""
        return self.size(gradient).to(gradient.dtype)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Divide each gradient by its length."""
        length = self.size(gradient).clamp(min=torch.finfo(torch.float64).tiny)
        return (gradient.double() / _wide(length, gradient)).to(gradient.dtype)

    def project(self, points: Tensor, centre: Tensor, eps: float, bounds: Bounds) -> Tensor:
        """Shrink each change by the largest factor that, after clipping to the bounds, leaves it within `eps`.

        That is the nearest point of ball and bounds together: by the Lagrangian of ‖z - y‖² with a multiplier of
        ‖z - x‖² ≤ ε², each coordinate is that of x + s(y - x), clipped, with one s for all.
        """
        change = points - centre
        share = _wide(_reach(change, centre, eps, bounds), change)
        return _clip(torch.where(share < 1, centre + share * change, points), bounds)

    def farthest(self, gradient: Tensor, centre: Tensor, eps: float, bounds: Bounds) -> Tensor:
        """Go along the gradient as far as ball and bounds allow; values that meet a bound leave the others more."""
        change = self.steepest(gradient)
        return _clip(centre + _wide(_reach(change, centre, eps, bounds), change) * change, bounds)

    def in_ball(self, streams: Tensor, like: Tensor) -> Tensor:
        """Draw the first d of d + 2 coordinates of a point uniform on the unit sphere."""
        size = like[0].numel()
        draws = normals(streams, size + 2, kind=STARTS).double()
        return (draws / _wide(self.size(draws), draws))[:, :size].reshape(like.shape).to(like)

    def direction(self, streams: Tensor, like: Tensor) -> Tensor:
        """Draw a point uniform on the unit sphere."""
        return self.steepest(normals(streams, like[0].numel(), kind=0).reshape(like.shape).to(like))

    def holding_cube(self, half: float, count: int) -> float:
        """Return the distance of the cube's corners."""
        return half * math.sqrt(count)

    def slack(self, eps: float, scale: float, count: int) -> float:
        """Return a hundred-thousandth of `eps`, and the rounding of each value."""
        return 1e-5 * eps + 2e-7 * scale * math.sqrt(count)


def _reach(change: Tensor, centre: Tensor, eps: float, bounds: Bounds) -> Tensor:
    """Return the largest factor s at which ‖clip(x + s·change) - x‖ ≤ ε, (N,); a huge one where no factor is too much.

    Values held at a bound contribute what room they have, the others s²·change²; solved for s, this tells which further
    values are held. s only grows, and every round holds more values, so it ends.
    """
    flat: Tensor = change.flatten(1).double().abs()
    largest = torch.finfo(change.dtype).max
    length = flat.norm(dim=1)
    s = torch.where(length > 0, eps / length, torch.inf)
    if bounds is not None:
        low, high = bounds
        room = torch.where(change > 0, high - centre, centre - low).flatten(1).double()
        before = torch.full_like(s, -1.0)
        while not torch.equal(s, before):
            before, held = s, s.clamp(max=largest)[:, None] * flat >= room
            left = (eps**2 - (held * room.square()).sum(1)).clamp(min=0.0)
            free = (~held * flat.square()).sum(1)
            s = torch.where(free > 0, (left / free).sqrt(), torch.inf).maximum(before)
    return s.clamp(max=largest).to(change.dtype)


def _clip(points: Tensor, bounds: Bounds) -> Tensor:
    return points if bounds is None else points.clamp(*bounds)


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    """Return a value for each row, (n,), in the shape (n, 1, ...) that goes with `like`."""
    return rows.view(-1, *[1] * (like.dim() - 1))


NORMS: Final[Mapping[str, Norm]] = {"linf": LInf(), "l2": L2()}

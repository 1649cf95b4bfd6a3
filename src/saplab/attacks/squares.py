"""What the Square attack puts on an image in each norm: its start, and a candidate for the next point."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from saplab.attacks.norms import NormName
from saplab.attacks.problem import Problem
from saplab.rng.streams import random_words

SQUARES: Final = 6  # kind of these random numbers
_TINY: Final = 1e-12


class Windows(ABC):
    """Changes of a norm's ball, window by window.

    What is no image counts as one: a vector (N, D) as one row of D pixels, (N, C, L) as one row of L pixels with C
    channels; its windows are runs of neighbours.
    """

    def start(self, problem: Problem, eps: float) -> Tensor:
        """Return the first points (N, ...)."""
        return self._start(problem.at(_pictures(problem.images)), eps).view(problem.images.shape)

    def candidates(self, problem: Problem, points: Tensor, eps: float, share: float, turn: int) -> Tensor:
        """Return points that differ from `points` by one random window, which covers a `share` of the image."""
        images = problem.at(_pictures(problem.images))
        return self._candidates(images, _pictures(points), eps, share, turn).view(points.shape)

    @abstractmethod
    def _start(self, problem: Problem, eps: float) -> Tensor: ...

    @abstractmethod
    def _candidates(self, problem: Problem, points: Tensor, eps: float, share: float, turn: int) -> Tensor: ...


def _pictures(images: Tensor) -> Tensor:
    """Return a view (N, C, H, W)."""
    if images.dim() < 4:
        channels = images.shape[1] if images.dim() == 3 else 1
        return images.reshape(len(images), channels, 1, -1)
    return images.flatten(3)


def sides(share: float, images: Tensor) -> tuple[int, int]:
    """Return the height and width of a square that covers a share of each image; of a row where these are rows."""
    *_, height, width = images.shape
    if height == 1:
        return 1, min(max(round(share * width), 1), width)
    side = min(max(round((share * height * width) ** 0.5), 1), height, width)
    return side, side


class LInfWindows(Windows):
    """Algorithm 2: stripes at first, then squares, of +eps or -eps from the image in each channel."""

    def _start(self, problem: Problem, eps: float) -> Tensor:
        count, channels, _, width = problem.images.shape
        signs = _signs(_words(problem, 0, channels * width)).view(count, channels, 1, width).to(problem.images)
        return problem.project(problem.images + eps * signs, eps)

    def _candidates(self, problem: Problem, points: Tensor, eps: float, share: float, turn: int) -> Tensor:
        words = _words(problem, turn, 2 + points.shape[1])
        signs = _signs(words[:, 2:])[:, :, None, None].to(points)
        window = _Window.at(words[:, :2], sides(share, points), points)
        return torch.where(window.covered, problem.project(problem.images + eps * signs, eps), points)


class L2Windows(Windows):
    """Algorithm 3: one window takes the length of another, and what of eps is unused, and adds a bump to its own."""

    def _start(self, problem: Problem, eps: float) -> Tensor:
        """Tile the image with bumps, five a side or more, each with an orientation, and a sign in each channel."""
        images = problem.images
        count, channels, height, width = images.shape
        side = (max(1, height // 5), max(1, width // 5))
        begin = [size % one // 2 for size, one in zip((height, width), side, strict=True)]
        tiles = [size // one for size, one in zip((height, width), side, strict=True)]
        words = _words(problem, 0, (channels + 1) * tiles[0] * tiles[1]).view(count, channels + 1, *tiles)
        rows, columns = (torch.arange(n * one, device=images.device) for n, one in zip(tiles, side, strict=True))
        tile = (slice(None), slice(None), (rows // side[0])[:, None], (columns // side[1])[None])
        turned = (words[:, :1][tile] & 1).expand(-1, 1, -1, -1)
        bumps = _bumps(*side).to(images)[turned, (rows % side[0])[:, None], (columns % side[1])[None]]
        change = torch.zeros_like(images)
        inside = (..., slice(begin[0], begin[0] + len(rows)), slice(begin[1], begin[1] + len(columns)))
        change[inside] = bumps * _signs(words[:, 1:][tile]).to(images)
        return problem.farthest(change, eps)

    def _candidates(self, problem: Problem, points: Tensor, eps: float, share: float, turn: int) -> Tensor:
        channels, words = points.shape[1], _words(problem, turn, 5 + points.shape[1])
        side = _odd(sides(share, points), points)
        change = points - problem.images
        to, source = (_Window.at(words[:, k : k + 2], side, points) for k in (0, 2))
        bump = to.filled(_bumps(*side).to(points)[words[:, 4] & 1]) * _signs(words[:, 5:])[:, :, None, None].to(points)
        own = change * to.covered
        added = (bump + own / (_length(own) + _TINY)) * to.covered
        unused = (eps**2 - change.square().sum((1, 2, 3), keepdim=True)).clamp(min=0.0) / channels
        length = (unused + _length(change * (to.covered | source.covered)).square()).sqrt()
        moved = torch.where(to.covered, added / (_length(added) + _TINY) * length, change * ~source.covered)
        return problem.farthest(moved, eps)


@dataclass(frozen=True)
class _Window:
    """A window of each image, anywhere that it fits.

    Attributes:
        rows, columns: (n, H) and (n, W), the place of each row and column in the window.
        side: height and width.
    """

    rows: Tensor
    columns: Tensor
    side: tuple[int, int]

    @classmethod
    def at(cls, words: Tensor, side: tuple[int, int], images: Tensor) -> "_Window":
        """Place windows by two random words (n, 2) each."""
        *_, height, width = images.shape
        places = (place(words[:, k], side[k], size) for k, size in enumerate((height, width)))
        rows, columns = places
        return cls(rows, columns, side)

    @property
    def covered(self) -> Tensor:
        """Return the mask (n, 1, H, W) of what lies inside."""
        inside = (_inside(places, one) for places, one in zip((self.rows, self.columns), self.side, strict=True))
        rows, columns = inside
        return (rows[:, :, None] & columns[:, None, :])[:, None]

    def filled(self, patterns: Tensor) -> Tensor:
        """Return patterns (n, height, width) in the window's place, (n, 1, H, W), and anything outside."""
        rows, columns = (p.clamp(0, s - 1) for p, s in zip((self.rows, self.columns), self.side, strict=True))
        which = torch.arange(len(patterns), device=patterns.device)[:, None, None]
        return patterns[which, rows[:, :, None], columns[:, None, :]][:, None]


def place(words: Tensor, side: int, size: int) -> Tensor:
    """Return the place of each of `size` positions in a side that begins uniformly over all that fit, (n, size)."""
    begin = (words * (size - side + 1) >> 32)[:, None]
    return torch.arange(size, device=words.device) - begin


def _inside(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)


def _odd(side: tuple[int, int], images: Tensor) -> tuple[int, int]:
    """Return the sides of the same window, odd and at least 3 where the image has room."""
    height, width = (min(max(one + 1 - one % 2, 3), size) for one, size in zip(side, images.shape[2:], strict=True))
    return (height, width) if images.shape[2] == 1 else (min(height, width),) * 2


def _length(change: Tensor) -> Tensor:
    """Return the length of each channel, (n, C, 1, 1)."""
    length: Tensor = change.flatten(2).norm(dim=2)
    return length[:, :, None, None]


@cache
def _bumps(height: int, width: int) -> Tensor:
    """Return two patterns of length 1, (2, height, width): a bump beside its negative, cut along either axis."""
    return torch.stack([_halves(height, width), _halves(width, height).T])


def _halves(height: int, width: int) -> Tensor:
    if height == 1:
        return _halves(width, 1).T if width > 1 else torch.ones(1, 1, dtype=torch.float32)
    upper, lower = _bump(height // 2, width), _bump(height - height // 2, width)
    halves = torch.cat((upper, -lower))
    return halves / float(halves.norm())


def _bump(height: int, width: int) -> Tensor:
    """Return a bump of length 1: nested rectangles, the k-th of which adds 1/k² (section 4 of the paper, η^{h1,h2})."""
    middle_row, middle_column = height // 2, width // 2
    bump = torch.zeros(height, width, dtype=torch.float32)
    for k in range(max(middle_row, middle_column) + 1):
        rows = slice(max(middle_row - k, 0), middle_row + k + 1)
        columns = slice(max(middle_column - k, 0), middle_column + k + 1)
        bump[rows, columns] += 1 / (k + 1) ** 2
    return bump / float(bump.norm())


def _words(problem: Problem, turn: int, count: int) -> Tensor:
    """Draw 32-bit words (n, count), int64, that depend on the turn and on each example's number alone."""
    words = random_words(problem.noise(turn), count, kind=SQUARES).astype(np.int64)
    return torch.from_numpy(words).to(problem.images.device)


def _signs(words: Tensor) -> Tensor:
    return (words & 1) * 2 - 1


WINDOWS: Final[Mapping[NormName, Windows]] = {"linf": LInfWindows(), "l2": L2Windows()}

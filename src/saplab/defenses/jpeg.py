"""JPEG's rounding of cosine coefficients at a random quality."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from saplab.defenses.base import Defense, Draw
from saplab.system.registry import register

Rounding = Callable[[Tensor], Tensor]

_BRIGHTNESS: Final = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_COLOUR: Final = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *[(99,) * 8] * 4,
)  # fmt: skip
_TO_YCBCR: Final = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # JFIF


@register("jpeg")
@dataclass(frozen=True)
class JPEG(Defense):
    """JPEG's loss at a random quality: the cosine coefficients of 8x8 blocks, rounded to multiples of its steps.

    Steps and qualities are those of the standard (ITU-T T.81, annex K) and of the Independent JPEG Group's library;
    images of three channels are rounded as YCbCr, of any other number channel by channel as brightness. Sides that are
    no multiple of 8 are filled up by repeating the edge. The result is clamped to [0, 1]. Other than in a file, colours
    keep their resolution, and nothing is rounded to bytes on the way.

    Guo et al. (2018) compress at quality 75; SHIELD (Das et al. 2018) draws 20, 40, 60 or 80 for each 8x8 block. Here
    each image has one quality, uniform over the whole numbers from `low` to `high`; there is no randomness where
    they are equal.

    Rounding has no gradient. By every rule the backward pass takes the same compression with a smooth rounding in the
    place of the hard one, u -> r + 4 (u - r)^3 for the nearest whole number r, steep halfway between two of them and
    flat at each (Shin & Song 2017 have r + (u - r)^3). Straight through the whole (BPDA, Athalye et al. 2018) sees
    frequencies that the steps cut off: the battery ``standard`` leaves 54 % by it, 15 % by this
    (docs/input-defenses.md).

    Attributes:
        low: worst quality, 1 to 100.
        high: best quality, 1 to 100.
    """

    bends = False
    title = "JPEG"
    low: int = 20
    high: int = 80

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high <= 100:
            raise ValueError(f"`low` and `high` must be 1 <= low <= high <= 100, got {self.low} and {self.high}")

    @property
    def random(self) -> bool:  # type: ignore[override]
        """Return whether there is more than one quality to draw."""
        return self.low < self.high

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        """Return the images as `input` does, at the same qualities, but for a smooth rounding."""
        return self._restored(x, draw, smooth_round)

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        """Compress and restore the images `x` (N, C, H, W), in [0, 1]."""
        with torch.no_grad():
            return self._restored(x, draw, torch.round)

    def _restored(self, x: Tensor, draw: Draw, rounding: Rounding) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"jpeg needs images (N, C, H, W), got shape {tuple(x.shape)}")
        quality = draw.randint(self.low, self.high + 1, (x.shape[0],))
        with torch.autocast(x.device.type, enabled=False):
            return _compressed(x.to(torch.promote_types(x.dtype, torch.float32)), quality, rounding)


def smooth_round(u: Tensor) -> Tensor:
    """Return r + 4 (u - r)^3, where r is the nearest whole number: continuous, with a mean slope of 1."""
    nearest = u.detach().round()
    return nearest + 4 * (u - nearest) ** 3


def _compressed(x: Tensor, quality: Tensor, rounding: Rounding) -> Tensor:
    height, width = x.shape[2:]
    maps = F.pad(255 * x, (0, -width % 8, 0, -height % 8), mode="replicate")
    colour = torch.tensor(_TO_YCBCR, dtype=torch.float64) if x.shape[1] == 3 else torch.eye(x.shape[1]).double()
    shift = maps.new_zeros(x.shape[1], 1, 1)
    shift[: 1 if x.shape[1] == 3 else None] = 128  # of brightness, which is not centred as Cb and Cr are
    planes = torch.einsum("dc,nchw->ndhw", colour.to(x), maps) - shift
    tables = [_BRIGHTNESS, _COLOUR, _COLOUR] if x.shape[1] == 3 else [_BRIGHTNESS] * x.shape[1]
    steps = steps_of(torch.tensor(tables, device=x.device), quality).to(x)
    rounded = _rounded(planes, steps, rounding) + shift
    restored = torch.einsum("cd,ndhw->nchw", colour.inverse().to(x), rounded)[..., :height, :width]
    return (restored / 255).clamp(0, 1)


def _rounded(planes: Tensor, steps: Tensor, rounding: Rounding) -> Tensor:
    """Round the cosine coefficients of the blocks of planes (N, C, H, W) to multiples of `steps` (N, C, 8, 8)."""
    dct, steps = _dct().to(planes), steps[:, :, None, None]
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (N, C, H / 8, W / 8, 8, 8)
    coefficients = dct @ blocks @ dct.T
    restored: Tensor = dct.T @ (rounding(coefficients / steps) * steps) @ dct
    return restored.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def steps_of(tables: Tensor, quality: Tensor) -> Tensor:
    """Return libjpeg's steps (N, C, 8, 8) at qualities (N,), where `tables` (C, 8, 8) are those of quality 50."""
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None, None]
    return ((tables * scale + 50) // 100).clamp(1, 255)


def _dct() -> Tensor:
    """Return the orthonormal cosine transform of 8 values: T.81, A.3.3."""
    k, n = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64)
    basis = torch.cos((2 * n + 1) * k * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis

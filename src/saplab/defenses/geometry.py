"""Input defences that move pixels: random resizing and padding, random crops.

Both are linear in the image, so that the gradient is exact for given draws. Straight through would hand each pixel
another one's gradient; no rule does it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from saplab.defenses.base import Defense, Draw
from saplab.system.registry import register

_WORDS = 1 << 31


@register("resize-pad")
@dataclass(frozen=True)
class RandomResizePad(Defense):
    """Resizing to a random size, nearest neighbour, at a random place of a larger canvas (Xie et al. 2018).

    The paper takes images of 299 pixels to sizes of 310 to 330 on a canvas of 331. Sizes here are relative to the image
    and drawn uniformly from round(low · n) to round(canvas · n) - 1 pixels, then each offset uniformly from all that
    fit. The width follows from the height. The network gets larger images; ``low=0.85,canvas=1`` leaves
    their size as it is, for networks that take no other.

    Attributes:
        low: smallest size, > 0, in image heights.
        canvas: size of the canvas, above `low`.
        fill: value of the padding: mid-grey, as in the paper.
        shared: whether all images of a pass get one size and place, as in the authors' code.
    """

    bends = False
    title = "resize and pad"
    low: float = 310 / 299
    canvas: float = 331 / 299
    fill: float = 0.5
    shared: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.low < self.canvas <= 16:
            raise ValueError(f"`low` and `canvas` must be 0 < low < canvas <= 16, got {self.low} and {self.canvas}")

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        """Resize and pad the images `x` (N, C, H, W)."""
        count, height, width = _check_images(self, x)
        tall, wide = round(self.canvas * height), round(self.canvas * width)
        sizes = self._sizes(height, tall, _words(draw, count, self.shared))
        widths = (sizes * width / height).round().long().clamp(1, wide)
        offsets = [_words(draw, count, self.shared) * (room + 1) // _WORDS for room in (tall - sizes, wide - widths)]
        rows, columns = _nearest(height, tall, sizes, offsets[0]), _nearest(width, wide, widths, offsets[1])
        inside = rows.sum(2)[:, None, :, None] * columns.sum(2)[:, None, None, :]
        return _resampled(x, rows, columns) + self.fill * (1 - inside)

    def _sizes(self, height: int, tall: int, words: Tensor) -> Tensor:
        low = max(1, round(self.low * height))
        if low >= tall:
            raise ValueError(f"resize-pad finds no size from {low} to {tall - 1} pixels for images of {height}")
        return low + words * (tall - low) // _WORDS


@register("random-crop")
@dataclass(frozen=True)
class RandomCrop(Defense):
    """A random crop, rescaled to the image's size by bilinear interpolation (Guo et al. 2018).

    The paper averages 30 crops of 90 pixels of images of 299, which the averaged passes of a prediction do here.
    Athalye et al. (2018), who break it by averaged gradients, give the network the crop at its own size, and crop at
    fractions of pixels.

    Attributes:
        share: side of the crop, in (0, 1), in sides of the image; rounded to pixels.
        shared: whether all images of a pass are cropped at one place.
    """

    bends = False
    title = "random crop"
    share: float = 90 / 299
    shared: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"`share` must be in (0, 1), got {self.share}")

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        """Crop and rescale the images `x` (N, C, H, W)."""
        count, *sides = _check_images(self, x)
        crops = [max(1, round(self.share * side)) for side in sides]
        if crops == sides:
            raise ValueError(f"random-crop leaves nothing to choose: crops of {self.share:g} are whole images here")
        rows, columns = (
            _bilinear(side, crop, _words(draw, count, self.shared) * (side - crop + 1) // _WORDS)
            for side, crop in zip(sides, crops, strict=True)
        )
        return _resampled(x, rows, columns)


def _check_images(defense: Defense, x: Tensor) -> tuple[int, int, int]:
    """Return number, height and width of images."""
    if x.dim() != 4:
        raise ValueError(f"{defense.registered_name} needs images (N, C, H, W), got shape {tuple(x.shape)}")
    return x.shape[0], x.shape[2], x.shape[3]


def _words(draw: Draw, count: int, shared: bool) -> Tensor:
    """Draw integers (N,) uniform in [0, 2^31), one for each image or for all of them."""
    return draw.per_pass.randint(0, _WORDS, (1,)).expand(count) if shared else draw.randint(0, _WORDS, (count,))


def _nearest(n: int, canvas: int, sizes: Tensor, offsets: Tensor) -> Tensor:
    """Return the weights (N, canvas, n) that put n pixels, resized to `sizes`, at `offsets`; 0 elsewhere."""
    place = torch.arange(canvas, device=sizes.device) - offsets[:, None]
    source = torch.where(place < sizes[:, None], place * n // sizes[:, None], -1).masked_fill(place < 0, -1)
    return (source[:, :, None] == torch.arange(n, device=sizes.device)).float()


def _bilinear(n: int, crop: int, offsets: Tensor) -> Tensor:
    """Return the weights (N, n, n) that stretch `crop` pixels from `offsets` on over n, pixels' centres at halves."""
    pixels = torch.arange(n, device=offsets.device)
    source = offsets[:, None] + ((pixels + 0.5) * crop / n - 0.5).clamp(0, crop - 1)
    return (1 - (source[:, :, None] - pixels).abs()).clamp(min=0)


def _resampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return R x Cᵀ for each image and channel, in the images' precision or float32."""
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.promote_types(x.dtype, torch.float32)
        return rows.to(dtype)[:, None] @ x.to(dtype) @ columns.to(dtype)[:, None].mT

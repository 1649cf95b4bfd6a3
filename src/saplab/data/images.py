"""The user's own pictures, in a folder with a subfolder for each class."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from saplab.data.dataset import Dataset
from saplab.data.left_out import LeftOut
from saplab.data.pictures import MOST_PIXELS, read_picture, suffixes
from saplab.system.memory import physical_memory
from saplab.system.words import readable

_LARGEST: Final = 8192  # pixels a side


@dataclass(frozen=True)
class Cut:
    """How pictures become images of one size, as torchvision and timm do it.

    Attributes:
        size: height and width of the images.
        resize: length, before the middle is cut out, of a picture's shorter side; of both sides for the mode
            ``squash``, of the longer one for ``border``.
        interpolation: ``bilinear`` or ``bicubic``.
        mode: ``center``, ``squash`` or ``border``.
        fill: colour, red, green and blue in 0..255, around what is smaller than the image in the mode ``border``; in
            others it is black.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"
    mode: str = "center"
    fill: tuple[int, ...] = (0, 0, 0)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _LARGEST:
            raise ValueError(f"`image-size` must be within [1, {_LARGEST}], got {self.size}")
        if not 1 <= self.resize <= 2 * _LARGEST:
            raise ValueError(f"`resize` must be within [1, {2 * _LARGEST}], got {self.resize}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"`interpolation` must be bilinear or bicubic, got {self.interpolation!r}")
        if self.mode not in ("center", "squash", "border"):
            raise ValueError(f"`mode` must be center, squash or border, got {self.mode!r}")

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height to which a picture is brought before its middle is cut out."""
        if self.mode == "squash":
            return self.resize, self.resize
        if self.mode == "border":
            ratio = max(width, height) / self.resize
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        longer = int(self.resize * max(width, height) / min(width, height))
        return (self.resize, longer) if width <= height else (longer, self.resize)


def load_folder(path: str | Path, cut: Cut, limit: int | None = None) -> Dataset:
    """Load the pictures of a folder with a subfolder for each class; classes are sorted by name.

    The first image of each class comes first, then the second of each, and so on, so that the first `limit` images
    show all classes. Folders inside a class belong to it. Pictures stand as their EXIF tag says, have 8 bits a colour,
    and lie on white where they are transparent. The data set's note counts what was left out.

    Raises ValueError for no class, a class without pictures, a picture that cannot be read, whose range is not known
    or whose shape is absurd, more pictures than memory holds, or if Pillow is missing.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is missing: expected a folder with a subfolder for each class")
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be >= 1, got {limit}")
    left = LeftOut()
    classes = sorted(left.folders(path))
    if not classes:
        raise ValueError(f"{path} must hold a subfolder for each class, got none")
    chosen = list(islice(_in_turn([_pictures(path / name, left) for name in classes]), limit))
    _require_memory(len(chosen), cut.size)
    images = np.stack([_read(file, cut, left) for _, file in chosen])
    labels = torch.tensor([label for label, _ in chosen])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    name, names = readable(path.resolve().name), tuple(map(readable, classes))
    return Dataset(name, pixels.contiguous(), labels, torch.arange(len(labels)), names, readable(left.said(path)))


def _pictures(folder: Path, left: LeftOut) -> list[Path]:
    """Return the pictures in a folder and those inside it, in the order of their names."""
    files = sorted(left.files(folder, suffixes()))
    if not files:
        raise ValueError(f"{folder} must hold at least one picture ({', '.join(sorted(suffixes()))}), got none")
    return files


def _in_turn(files: list[list[Path]]) -> Iterator[tuple[int, Path]]:
    """Yield (label, file), first the first of each class, then the second of each."""
    for row in zip_longest(*files):
        yield from ((label, file) for label, file in enumerate(row) if file is not None)


def _require_memory(count: int, size: int) -> None:
    """Refuse what the machine cannot hold: the images as bytes, then as numbers in two orders."""
    need, have = 9 * 3 * count * size * size, physical_memory()
    if have is not None and need > have:
        asked = f"{count} images of {size}×{size} need {need / 2**30:.0f} GiB"
        raise ValueError(f"{asked}, and the machine has {have / 2**30:.0f}: use a `limit` or a smaller `image-size`")


def _read(file: Path, cut: Cut, left: LeftOut) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read a picture as uint8 (size, size, 3)."""
    from PIL import Image

    picture, clear = read_picture(file)
    left.transparent += clear
    shape = cut.shape(*picture.size)
    if math.prod(shape) > MOST_PIXELS:
        width, height = picture.size
        raise ValueError(f"{file} is {width}×{height} pixels, too long and narrow for {shape[0]}×{shape[1]}")
    picture = picture.resize(shape, Image.Resampling[cut.interpolation.upper()])
    before = [max(cut.size - side, 0) // 2 for side in shape]
    canvas = [max(cut.size, side) for side in shape]
    if canvas != list(shape):
        around = Image.new("RGB", (canvas[0], canvas[1]), cut.fill)
        around.paste(picture, (before[0], before[1]))
        picture = around
    x, y = (round((side - cut.size) / 2) for side in canvas)
    return np.asarray(picture.crop((x, y, x + cut.size, y + cut.size)))

"""The user's own pictures, in a folder with a subfolder for each class."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from saplab.data.dataset import Dataset

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Cut:
    """How pictures become images of one size."""

    size: int  # height and width of the images
    resize: int  # length of a picture's shorter side before its middle is cut out; at least `size`
    interpolation: str = "bilinear"  # or ``bicubic``

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"`image-size` must be >= 1, got {self.size}")
        if self.resize < self.size:
            raise ValueError(f"`resize` must be at least the images' size {self.size}, got {self.resize}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"`interpolation` must be bilinear or bicubic, got {self.interpolation!r}")


def load_folder(path: str | Path, cut: Cut, limit: int | None = None) -> Dataset:
    """Load the pictures of a folder with a subfolder for each class; classes are sorted by name.

    The first image of each class comes first, then the second of each, and so on, so that the first `limit` images
    show all classes. Pictures are read as RGB; hidden files and those without a picture's suffix are ignored.

    Raises ValueError for no class, a class without pictures, an unreadable picture, or if Pillow is missing.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is missing: expected a folder with a subfolder for each class")
    classes = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not classes:
        raise ValueError(f"{path} must hold a subfolder for each class, got none")
    chosen = list(islice(_in_turn([_pictures(path / name) for name in classes]), limit))
    images = np.stack([_read(file, cut) for _, file in chosen])
    labels = torch.tensor([label for label, _ in chosen])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    return Dataset(path.name, pixels.contiguous(), labels, torch.arange(len(labels)), tuple(classes))


def _pictures(folder: Path) -> list[Path]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} must hold at least one picture ({', '.join(SUFFIXES)}), got none")
    return files


def _in_turn(files: list[list[Path]]) -> Iterator[tuple[int, Path]]:
    """Yield (label, file), first the first of each class, then the second of each."""
    for row in zip_longest(*files):
        yield from ((label, file) for label, file in enumerate(row) if file is not None)


def _read(file: Path, cut: Cut) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read a picture as uint8 (size, size, 3)."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ValueError("`data` is a folder of pictures, which needs Pillow: pip install 'saplab[vision]'") from None
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is no readable picture: {error}") from None
    width, height = picture.size
    longer = int(cut.resize * max(width, height) / min(width, height))
    shape = (cut.resize, longer) if width <= height else (longer, cut.resize)
    picture = picture.resize(shape, Image.Resampling[cut.interpolation.upper()])
    left, top = (round((side - cut.size) / 2) for side in shape)
    return np.asarray(picture.crop((left, top, left + cut.size, top + cut.size)))

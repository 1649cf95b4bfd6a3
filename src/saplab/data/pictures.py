"""One picture from a file of any kind, as a network's input begins: upright, 8 bits of red, green and blue."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

MOST_PIXELS: Final = 89_478_485  # Pillow's own bound, above which a file may be made to fill the memory
_OUTSIDE: Final = {"EPS", "BUFR", "GRIB", "HDF5", "WMF", "MPEG"}  # read by other programs, or not at all


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the pictures that Pillow reads."""
    known = _formats()
    return frozenset(suffix for suffix, name in _image().registered_extensions().items() if name in known)


def read_picture(file: Path) -> tuple[Any, bool]:
    """Read a picture of Pillow's, in the mode RGB, and whether it was transparent in places, which become white.

    Raises ValueError for a file that cannot be read or whose values have no known range.
    """
    image = _image()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, which decide no pixel
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(file, formats=_formats()) as opened:
                return _rgb(_upright(opened), str(opened.format))
    except image.DecompressionBombWarning:
        raise ValueError(f"{file} has more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:  # what a damaged file can make a decoder raise is anything
        raise ValueError(f"{file} is no readable picture: {' '.join(str(error).split())}") from None


def _image() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ValueError("`data` is a folder of pictures, which needs Pillow: pip install 'saplab[vision]'") from None
    return Image


@cache
def _formats() -> tuple[str, ...]:
    image = _image()
    image.init()
    return tuple(name for name in image.OPEN if name not in _OUTSIDE)


def _upright(picture: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture)


def _rgb(picture: Any, kind: str) -> tuple[Any, bool]:
    image, mode = _image(), picture.mode
    if mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM")):
        wide = np.asarray(picture).astype(np.float64)  # both formats bring 16 bits to 0..65535
        return image.fromarray(np.rint(wide / 257).astype(np.uint8)).convert("RGB"), False
    if mode in ("I", "F"):
        numbers = "whole" if mode == "I" else "real"
        raise ValueError(f"its {numbers} numbers of 32 bits have no known range; save it with 8 bits")
    if not picture.has_transparency_data:
        return picture.convert("RGB"), False
    layers = picture.convert("RGBA")
    if layers.getextrema()[3][0] == 255:
        return layers.convert("RGB"), False
    white = image.new("RGBA", layers.size, (255, 255, 255, 255))
    return image.alpha_composite(white, layers).convert("RGB"), True

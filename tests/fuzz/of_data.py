"""Archives of arrays and folders of pictures: right, absurd and damaged."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.cases import Canary, Case, call, command, generator
from saplab.data.images import Cut, load_folder
from saplab.data.npz import load_npz

_TYPES = (
    "u1",
    "i1",
    "i2",
    "i4",
    "i8",
    "u2",
    "u4",
    "u8",
    "f2",
    "f4",
    "f8",
    ">f4",
    ">i4",
    "c8",
    "?",
    "U3",
    "S3",
    "O",
    "M8[s]",
)
_SHAPES = (
    (2, 3, 4, 4),
    (2, 4, 4, 3),
    (2, 1, 4, 4),
    (2, 4, 4),
    (0, 3, 4, 4),
    (2, 3, 0, 4),
    (2, 2, 4, 4),
    (3, 3, 3, 3),
    (),
    (2,),
)


def _array(draw: random.Random, shape: tuple[int, ...], folder: Path) -> Any:
    kind = draw.choice(_TYPES)
    if kind == "O":
        return np.full(shape, None) if draw.random() < 0.5 else np.array([Canary(folder)] * 2, dtype=object)
    values = np.random.default_rng(draw.randrange(1 << 30)).random(shape) * draw.choice(
        (1, 1, 2, 255, -1, np.nan, np.inf)
    )
    with np.errstate(all="ignore"):
        return values.astype("i8").astype(kind) if kind.startswith("M8") else values.astype(kind)


@generator
def archives_of_any_arrays(draw: random.Random, folder: Path) -> Case:
    """Images and labels of any type and shape: refused, or the same numbers."""
    images = _array(draw, draw.choice(_SHAPES), folder)
    labels = draw.choice(
        (np.arange(2), np.arange(2, dtype="u1"), _array(draw, (2,), folder), np.array([0, -1]), np.array(3))
    )
    names = draw.choice(((), ("classes",), ("classes", "extra")))
    beside = {name: draw.choice((np.array(["a", "b"]), np.arange(2), np.array("x"))) for name in names}
    file = folder / "data.npz"
    np.savez(file, images=images, labels=labels, **beside)

    def run() -> None:
        data = load_npz(file)
        wide = images.astype(np.float64) / (255 if images.dtype == np.uint8 else 1)
        found = data.images.numpy()
        expected = wide if wide.shape == found.shape else wide.transpose(0, 3, 1, 2)
        assert np.allclose(found, expected, atol=1e-6)
        assert data.labels.tolist() == labels.tolist()

    return call(f"{images.dtype} {images.shape}, labels {labels.dtype} {labels.shape}, {sorted(beside)}", run)


@generator
def damaged_archives(draw: random.Random, folder: Path) -> Case:
    """Bytes changed or cut off, through the command line: refused by the archive's checksums or by what they say."""
    file = folder / "data.npz"
    np.savez(file, images=np.zeros((2, 3, 32, 32), np.uint8), labels=np.arange(2))
    content = bytearray(file.read_bytes())
    for at in draw.sample(range(len(content)), draw.choice((1, 5, 50))):
        content[at] ^= 1 << draw.randrange(8)
    file.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
    return command("evaluate", "--data", "data.npz", "--dry-run", "--passes", "1")


_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "LAB", "RGBX")
_SUFFIXES = (
    "png",
    "jpg",
    "tif",
    "bmp",
    "gif",
    "webp",
    "ppm",
    "tga",
    "jp2",
    "qoi",
    "ico",
    "pcx",
    "sgi",
    "avif",
    "txt",
    "PNG",
)


def _write(picture: Any, file: Path) -> bool:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        picture.save(file, "png" if file.suffix == ".txt" else None)
    except (OSError, ValueError, KeyError):  # no such mode in that kind of file
        file.unlink(missing_ok=True)
        return False
    return True


@generator
def folders_of_plain_pictures(draw: random.Random, folder: Path) -> Case:
    """Pictures of one grey in any mode, kind and shape, at any depth: all are read in that grey, or one is refused."""
    from PIL import Image

    grey, count = draw.randrange(256), 0
    for k in range(draw.randrange(1, 5)):
        shape = (draw.choice((1, 7, 16, 33, 200)), draw.choice((1, 7, 16, 33, 200)))
        picture = Image.new("RGB", shape, (grey, grey, grey))
        mode = draw.choice(_MODES)
        try:
            if mode in ("I", "I;16"):
                picture = Image.new(mode, shape, grey * 257)
            else:  # `convert` would dither to a palette of its own
                picture = picture.quantize() if mode == "P" else picture.convert(mode)
        except ValueError:
            continue
        place = draw.choice(("a", "b", "a/deep/er"))
        kinds = ("png", "tif", "ppm") if mode in ("I", "I;16") else _SUFFIXES  # others are written as white
        file = folder / "pictures" / place / f"{k}.{draw.choice(kinds)}"
        count += _write(picture, file) and file.suffix != ".txt" and mode != "1"
    cut = Cut(8, draw.choice((8, 9, 12)), draw.choice(("bilinear", "bicubic")), draw.choice(("center", "squash")))

    def run() -> None:
        data = load_folder(folder / "pictures", cut)
        off = (data.images * 255 - grey).abs().amax((1, 2, 3))
        assert len(data) >= count
        assert int((off > 8).sum()) <= len(data) - count, f"{off} beside {grey}"  # lossy kinds round

    return call(str(cut), run)


@generator
def damaged_pictures(draw: random.Random, folder: Path) -> Case:
    """Pictures with changed or missing bytes: read or refused."""
    from PIL import Image

    pixels = np.random.default_rng(draw.randrange(1 << 30)).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    file = folder / "pictures" / "a" / f"1.{draw.choice(_SUFFIXES[:14])}"
    if not _write(Image.fromarray(pixels), file):
        Image.fromarray(pixels).save(file := file.with_suffix(".png"))
    content = bytearray(file.read_bytes())
    for at in draw.choices(
        range(len(content)), [9 if k < 60 else 1 for k in range(len(content))], k=draw.choice((1, 3, 20))
    ):
        content[at] = draw.randrange(256)
    file.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
    return call(file.name, lambda: load_folder(folder / "pictures", Cut(8, 8)))


@generator
def strange_things_in_folders(draw: random.Random, folder: Path) -> Case:
    """Pipes, devices, loops of links, strange names and empty folders where pictures are expected."""
    import os

    from PIL import Image

    inside = folder / "pictures" / "cat"
    inside.mkdir(parents=True)
    if draw.random() < 0.7:
        Image.new("RGB", (9, 9)).save(inside / "first.png")
    for k in range(draw.randrange(1, 4)):
        name = os.fsdecode(draw.choice((b"x.png", b"\xff\xfe.png", b".png", b"a b\n.png", b"~.jpg", b"-.gif")))
        target = inside / f"{k}{name}"
        kind = draw.randrange(6)
        if kind == 0:
            os.mkfifo(target)
        elif kind == 1:
            target.symlink_to("/dev/zero")
        elif kind == 2:
            target.symlink_to(target)
        elif kind == 3:
            target.symlink_to(folder)
        elif kind == 4:
            target.mkdir()
        else:
            Image.new("RGB", (9, 9)).save(target, "png")
    return command(
        "evaluate", "--data", "pictures", "--image-size", draw.choice(("32", "1")), "--dry-run", "--passes", "1"
    )

"""Folders of pictures: order, cuts as torchvision makes them, mistakes."""

import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision_operators import declare_torchvision_operators

from saplab.data import images
from saplab.data.images import Cut, load_folder
from saplab.data.load import load_data

Image = pytest.importorskip("PIL.Image", reason="Pillow belongs to the extra 'vision'")
declare_torchvision_operators()

SIZES = {"cat": [(20, 12), (12, 20), (16, 16)], "ant": [(13, 31)]}


def picture(width: int, height: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name, sizes in SIZES.items():
        (root / name).mkdir(parents=True)
        for k, (width, height) in enumerate(sizes):
            Image.fromarray(picture(width, height, k)).save(root / name / f"{k}.png")
    (root / "cat" / "notes.txt").write_text("no picture")
    (root / "cat" / ".hidden.png").write_text("no picture")
    (root / ".cache").mkdir()
    (root / "readme.md").write_text("no class")
    return root


def test_classes_are_sorted_and_come_in_turn(folder: Path) -> None:
    data = load_folder(folder, Cut(8, 8))
    assert data.classes == ("ant", "cat")
    assert data.labels.tolist() == [0, 1, 1, 1]
    assert data.indices.tolist() == [0, 1, 2, 3]
    assert data.images.shape == (4, 3, 8, 8)
    assert data.images.dtype == torch.float32
    assert 0 <= data.images.min() <= data.images.max() <= 1
    first = load_data(str(folder), Cut(8, 8), limit=2)
    assert torch.equal(first.images, data.images[:2])
    assert first.classes == data.classes


def test_classes_of_several_pictures_come_in_turn(tmp_path: Path) -> None:
    for name, count in (("ant", 2), ("bee", 3)):
        (tmp_path / name).mkdir()
        for k in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{k}.png")
    assert load_folder(tmp_path, Cut(8, 8)).labels.tolist() == [0, 1, 0, 1, 1]
    assert load_folder(tmp_path, Cut(8, 8), limit=3).labels.tolist() == [0, 1, 0]


def test_a_picture_of_the_right_size_stays_as_it_is(folder: Path) -> None:
    data = load_folder(folder, Cut(16, 16))
    square = data.images[3].permute(1, 2, 0).mul(255).round().byte().numpy()
    assert np.array_equal(square, picture(16, 16, 2))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(8, 8), (8, 11), (15, 15), (24, 25)])
def test_cuts_are_torchvisions(folder: Path, size: int, resize: int, interpolation: str) -> None:
    pytest.importorskip("torchvision", reason="torchvision belongs to the extra 'vision'")
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

    theirs = Compose([Resize(resize, InterpolationMode(interpolation)), CenterCrop(size), PILToTensor()])
    mine = load_folder(folder, Cut(size, resize, interpolation))
    files = [folder / "ant" / "0.png", *(folder / "cat" / f"{k}.png" for k in range(3))]
    expected = torch.stack([theirs(Image.open(file)) for file in files]).float() / 255
    assert torch.equal(mine.images, expected)


def test_other_modes_become_rgb(folder: Path) -> None:
    for k, mode in enumerate(("L", "RGBA", "P", "1")):
        Image.fromarray(picture(9, 9, 0)).convert(mode).save(folder / "ant" / f"{k}.png")
    assert load_folder(folder, Cut(8, 9)).images.shape == (7, 3, 8, 8)


def test_folders_that_are_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        load_folder(tmp_path / "nowhere", Cut(8, 8))
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="bare must hold a subfolder for each class, got none"):
        load_folder(tmp_path / "bare", Cut(8, 8))
    (folder / "dog").mkdir()
    with pytest.raises(ValueError, match=r"dog must hold at least one picture .*, got none"):
        load_folder(folder, Cut(8, 8))


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_a_file_that_is_no_picture_is_named(folder: Path, content: bytes) -> None:
    (folder / "cat" / "1.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cat.1\.png is no readable picture"):
        load_folder(folder, Cut(8, 8))


def test_a_truncated_picture_is_named(folder: Path) -> None:
    file = folder / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cat.1\.png is no readable picture"):
        load_folder(folder, Cut(8, 8))


def test_cuts_that_are_none(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"`image-size` must be within \[1, 8192\], got 0"):
        Cut(0, 8)
    with pytest.raises(ValueError, match=r"`image-size` must be within \[1, 8192\], got 100000"):
        Cut(100_000, 100_000)
    with pytest.raises(ValueError, match=r"`resize` must be within \[1, 16384\], got 0"):
        Cut(9, 0)
    with pytest.raises(ValueError, match="`mode` must be center, squash or border, got 'whole'"):
        Cut(8, 8, mode="whole")
    with pytest.raises(ValueError, match="`interpolation` must be bilinear or bicubic"):
        Cut(8, 8, "nearest")
    with pytest.raises(ValueError, match="`image-size` must be given for the folder of pictures"):
        load_data(str(folder))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "crop_pct"), [(8, 0.9), (11, 1.0), (15, 1.15), (14, 1.15)])
def test_cuts_are_timms(folder: Path, size: int, crop_pct: float, mode: str) -> None:
    timm = pytest.importorskip("timm", reason="timm belongs to the extra 'vision'")
    mean = (0.5, 0.25, 0.1)
    theirs = timm.data.transforms_factory.transforms_imagenet_eval(
        size, crop_pct, mode, interpolation="bicubic", mean=mean, normalize=False
    )
    fill = tuple(round(255 * value) for value in mean) if mode == "border" else (0, 0, 0)
    mine = load_folder(folder, Cut(size, math.floor(size / crop_pct), "bicubic", mode, fill))
    files = [folder / "ant" / "0.png", *(folder / "cat" / f"{k}.png" for k in range(3))]
    expected = torch.stack([theirs(Image.open(file)) for file in files]).float() / 255
    assert torch.equal(mine.images, expected)


def one(tmp_path: Path, picture: Any, name: str = "1.png", **options: Any) -> torch.Tensor:
    """Return how a picture of 16×16 pixels is loaded."""
    (tmp_path / "one" / "a").mkdir(parents=True)
    picture.save(tmp_path / "one" / "a" / name, **options)
    return load_folder(tmp_path / "one", Cut(16, 16)).images[0]


RAMP = np.linspace(0, 1, 16)[None, :] * np.ones((16, 1))


@pytest.mark.parametrize("name", ["1.png", "1.tif", "1.pgm"])
def test_sixteen_bits_become_the_nearest_of_eight(tmp_path: Path, name: str) -> None:
    loaded = one(tmp_path, Image.fromarray((RAMP * 65535).astype(np.uint16)), name)
    assert torch.allclose(loaded, torch.from_numpy(RAMP).float().expand(3, 16, 16), atol=0.5 / 255)


@pytest.mark.parametrize("more", [0, 128, 129, 256])
def test_sixteen_bits_are_rounded(tmp_path: Path, more: int) -> None:
    eight = np.arange(256).reshape(16, 16) % 255
    loaded = one(tmp_path, Image.fromarray((257 * eight + more).astype(np.uint16)), "1.png")
    assert torch.equal((loaded[0] * 255).round().int(), torch.from_numpy(eight + (more > 128)).int())


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_known_range_are_refused(tmp_path: Path, kind: type) -> None:
    with pytest.raises(
        ValueError, match=r"1\.tif is no readable picture: its .* numbers of 32 bits have no known range"
    ):
        one(tmp_path, Image.fromarray((RAMP * 200).astype(kind)), "1.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_places_are_white_whatever_hides_there(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 0], pixels[:8, :, 3] = 255, 255
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = picture.quantize(4)
    loaded = one(tmp_path, picture.convert(mode) if mode == "LA" else picture)
    assert (loaded[:, 8:] == 1).all()
    assert loaded[1, :8].max() < 0.4  # red, or its grey
    assert "1 picture with transparent parts laid on white" in load_folder(tmp_path / "one", Cut(16, 16)).note


@pytest.mark.parametrize("tag", range(1, 9))
def test_photos_stand_as_their_tag_says(tmp_path: Path, tag: int) -> None:
    from PIL import ImageOps

    pixels = picture(16, 16, 0)
    exif = Image.Exif()
    exif[274] = tag
    loaded = one(tmp_path, Image.fromarray(pixels), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "one" / "a" / "1.png"))
    assert torch.equal(loaded, torch.from_numpy(np.array(upright)).permute(2, 0, 1).float() / 255)
    assert torch.equal(loaded, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255) == (tag == 1)


def test_every_picture_inside_a_class_counts_and_the_rest_is_said(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    (root / "cat" / "more" / "inner").mkdir(parents=True)
    (root / "cat" / ".thumbnails").mkdir()
    grey = Image.fromarray(np.full((16, 16, 3), 90, np.uint8))
    for name in ("1.png", "more/2.png", "more/inner/3.JFIF", "4.jpe", "5.qoi"):
        grey.save(root / "cat" / name, "jpeg" if "j" in name.lower() else None)
    grey.save(root / "cat" / ".thumbnails" / "1.png")
    (root / "cat" / "more" / "around").symlink_to(root / "cat")
    for name in ("a.heic", "b.HEIC", "LICENSE"):
        (root / "cat" / name).write_bytes(b"")
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "readme.md").write_text("no class")
    data = load_folder(root, Cut(16, 16))
    assert len(data) == 5
    assert data.note == (
        f"{root}: left out 3 files of another kind (2 .heic, 1 no suffix), 1 file outside its subfolders, 2 that are no"
        " regular files"
    )
    assert load_folder(root, Cut(16, 16), limit=2).note == data.note


def test_a_link_to_a_folder_around_a_class_brings_no_other_classes_pictures(folder: Path) -> None:
    before = load_folder(folder, Cut(8, 8))
    (folder / "cat" / "around").symlink_to("..")
    (folder / "cat" / "far").symlink_to(folder.parent)
    data = load_folder(folder, Cut(8, 8))
    assert torch.equal(data.images, before.images)
    assert torch.equal(data.labels, before.labels)
    assert data.note == f"{before.note}, 2 that are no regular files"


def test_a_limit_of_none_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="`limit` must be >= 1, got 0"):
        load_folder(folder, Cut(8, 8), limit=0)


def header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG that claims a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_huge_pictures_are_refused_before_memory_is(folder: Path, size: tuple[int, int]) -> None:
    (folder / "cat" / "1.png").write_bytes(header(*size))
    with pytest.raises(ValueError, match=r"1\.png (has more than 89,478,485 pixels|is no readable picture)"):
        load_folder(folder, Cut(8, 8))


def test_long_and_narrow_pictures_are_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((1, 30_000, 3), np.uint8)).save(folder / "cat" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png is 30000×1 pixels, too long and narrow for 7680000×256"):
        load_folder(folder, Cut(224, 256))


def test_more_images_than_memory_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "physical_memory", lambda: 4 * 27 * 64 - 1)
    with pytest.raises(ValueError, match=r"4 images of 8×8 need 0 GiB, and the machine has 0: use a `limit`"):
        load_folder(folder, Cut(8, 8))
    monkeypatch.setattr(images, "physical_memory", lambda: 4 * 27 * 64)
    assert len(load_folder(folder, Cut(8, 8))) == 4


def test_no_other_program_reads_a_picture(folder: Path) -> None:
    """PostScript is code, whatever the file is called."""
    (folder / "cat" / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"1\.png is no readable picture: cannot identify image file"):
        load_folder(folder, Cut(8, 8))


def test_names_that_are_no_text_can_be_written(folder: Path) -> None:
    strange = folder / os.fsdecode(b"b\xff")
    strange.mkdir()
    Image.fromarray(picture(9, 9, 0)).save(strange / os.fsdecode(b"\xfe.png"))
    data = load_folder(folder, Cut(8, 8))
    assert data.classes == ("ant", r"b\xff", "cat")
    assert load_folder(strange.parent / "cat" / "..", Cut(8, 8)).name == "pictures"

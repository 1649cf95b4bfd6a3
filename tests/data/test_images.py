"""Folders of pictures: order, cuts as torchvision makes them, mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision_operators import declare_torchvision_operators

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
    with pytest.raises(ValueError, match="`image-size` must be >= 1, got 0"):
        Cut(0, 8)
    with pytest.raises(ValueError, match="`resize` must be at least the images' size 9, got 8"):
        Cut(9, 8)
    with pytest.raises(ValueError, match="`interpolation` must be bilinear or bicubic"):
        Cut(8, 8, "nearest")
    with pytest.raises(ValueError, match="`image-size` must be given for the folder of pictures"):
        load_data(str(folder))

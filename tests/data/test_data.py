"""Loaders: both layouts of CIFAR-10, the packaged sample, .npz files, and what is refused."""

import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saplab.data import cifar10, sample
from saplab.data.cifar10 import Records, inexact_indices, load_cifar10, read_records
from saplab.data.dataset import Dataset, digest
from saplab.data.load import load_data
from saplab.data.npz import load_npz
from saplab.data.sample import choose, make_sample, read_sample

FEW = 10


def full_set() -> Path:
    root = Path(os.environ.get("SAPLAB_CIFAR10", Path(__file__).parents[2] / "data" / "cifar10"))
    if not root.is_dir():
        pytest.skip("needs the whole of CIFAR-10: set SAPLAB_CIFAR10 or put it under data/cifar10")
    return root


def batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    return {name: (rng.integers(0, 256, (FEW, 3072), np.uint8), rng.integers(0, 10, FEW)) for name in names}


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cifar10, "RECORDS_PER_FILE", FEW)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (pixels, labels) in batches().items():
        np.column_stack([labels.astype(np.uint8), pixels]).tofile(folder / f"{name}.bin")
    return tmp_path


def write_pickles(root: Path, protocol: int = 2) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, (pixels, labels) in batches().items():
        content = {b"batch_label": b"a batch", b"data": pixels, b"labels": labels.tolist(), b"filenames": [b"a.png"]}
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    return folder


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("split", ["train", "test"])
def test_both_layouts_give_equal_arrays(binary: Path, tmp_path_factory, split, protocol) -> None:
    python = tmp_path_factory.mktemp("python")
    write_pickles(python, protocol)
    ours, theirs = read_records(split, binary), read_records(split, python)
    for name in ("images", "labels", "indices"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.images.dtype == np.uint8
    assert ours.labels.dtype == np.int64


def test_pixels_keep_their_places(binary: Path) -> None:
    images, labels = load_cifar10("train", binary)
    pixels = np.concatenate([batches()[f"data_batch_{k}"][0] for k in range(1, 6)])
    assert images.shape == (5 * FEW, 3, 32, 32)
    assert images.dtype == torch.float32
    assert labels.tolist() == [label for k in range(1, 6) for label in batches()[f"data_batch_{k}"][1]]
    assert images[13, 2, 5, 7] == np.float32(pixels[13, 2 * 1024 + 5 * 32 + 7]) / np.float32(255)


def test_the_folder_itself_may_be_the_root(binary: Path) -> None:
    inner = read_records("test", binary / "cifar-10-batches-bin")
    assert np.array_equal(inner.images, read_records("test", binary).images)


def test_old_python_2_pickle_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "RECORDS_PER_FILE", FEW)
    folder = write_pickles(tmp_path)
    path = folder / "test_batch"
    modern = path.read_bytes()
    old = modern.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
    assert old != modern
    path.write_bytes(old)
    assert np.array_equal(read_records("test", tmp_path).labels, batches()["test_batch"][1])


def test_inexact_images_are_left_out_unless_asked_for(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "inexact_indices", lambda split: (2, 7))
    kept, whole = read_records("test", binary), read_records("test", binary, exact=False)
    assert kept.indices.tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    assert np.array_equal(kept.images, whole.images[kept.indices])
    assert np.array_equal(kept.labels, whole.labels[kept.indices])
    assert len(whole) == FEW


def test_lists_of_inexact_images() -> None:
    assert len(set(inexact_indices("train"))) == 73
    assert len(set(inexact_indices("test"))) == 20


def test_truncated_binary_file(binary: Path) -> None:
    path = binary / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin must hold 30730 bytes .* got 30729"):
        read_records("train", binary)


def test_missing_file(binary: Path) -> None:
    (binary / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin is missing"):
        read_records("train", binary)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 in .*expected cifar-10-batches-bin/test_batch\.bin"):
        load_cifar10("test", tmp_path)


def test_wrong_label_byte(binary: Path) -> None:
    path = binary / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"test_batch\.bin must hold labels in 0\.\.9, got \d\.\.10"):
        read_records("test", binary)


def test_truncated_pickle(tmp_path: Path) -> None:
    path = write_pickles(tmp_path) / "test_batch"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="test_batch is not a readable pickle"):
        read_records("test", tmp_path)


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path = write_pickles(tmp_path) / "test_batch"
    path.write_bytes(pickle.dumps({b"data": _Malicious(tmp_path / "touched")}, protocol))
    with pytest.raises(ValueError, match=r"test_batch is refused: it asks for (posix|nt)\.system"):
        read_records("test", tmp_path)
    assert not (tmp_path / "touched").exists()


class _OfNumpy:
    def __reduce__(self):
        return np.zeros, (3,)


def test_a_pickle_may_name_nothing_else_of_numpys(tmp_path: Path) -> None:
    path = write_pickles(tmp_path) / "test_batch"
    path.write_bytes(pickle.dumps({b"data": _OfNumpy(), b"labels": [1]}))
    with pytest.raises(ValueError, match=r"test_batch is refused: it asks for numpy\.zeros"):
        read_records("test", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a dictionary with data and labels"),
        ({b"data": b"text", b"labels": [1]}, r"must hold data of uint8 \(10, 3072\), got bytes"),
        ({b"data": np.zeros((10, 3072)), b"labels": [1]}, r"got float64 \(10, 3072\)"),
        ({b"data": np.zeros((10, 3072), np.uint8), b"labels": [1]}, "must hold 10 whole-number labels"),
        ({b"data": np.zeros((10, 3072), np.uint8), b"labels": [10] * 10}, r"labels in 0\.\.9, got 10\.\.10"),
    ],
)
def test_wrong_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str) -> None:
    monkeypatch.setattr(cifar10, "RECORDS_PER_FILE", FEW)
    (write_pickles(tmp_path) / "test_batch").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match=message):
        read_records("test", tmp_path)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="`split` must be 'sample', 'test' or 'train', got 'valid'"):
        load_cifar10("valid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`root` must name the folder"):
        load_cifar10("test")


def test_sample_is_balanced_and_spread() -> None:
    packaged = read_sample()
    assert packaged.images.shape == (1000, 3, 32, 32)
    assert packaged.images.dtype == np.uint8
    assert np.bincount(packaged.labels).tolist() == [100] * 10
    assert not set(packaged.indices.tolist()) & set(inexact_indices("test"))
    assert (np.diff(packaged.indices) > 0).all()
    per_tenth = np.histogram(packaged.indices, bins=10, range=(0, 10_000))[0]
    assert per_tenth.min() >= 90


def test_sample_is_what_the_whole_set_gives() -> None:
    again, packaged = make_sample(full_set()), read_sample()
    for name in ("images", "labels", "indices"):
        assert np.array_equal(getattr(again, name), getattr(packaged, name))


def test_sample_is_written_as_it_lies_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "make_sample", lambda root: read_sample())
    sample.write_sample("unused", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == Path(sample.__file__).with_name(sample.FILE).read_bytes()


def test_choose_takes_the_middles() -> None:
    labels = np.tile(np.arange(10), 6)  # class k stands at k, 10 + k, ..., 50 + k
    assert choose(labels, per_class=2).tolist() == [10 + k for k in range(10)] + [40 + k for k in range(10)]
    with pytest.raises(ValueError, match="`labels` must hold 7 of class 0, got 6"):
        choose(labels, per_class=7)


def test_whole_set_has_the_known_sizes() -> None:
    test = read_records("test", full_set())
    assert len(test) == 9_980
    assert np.bincount(read_records("test", full_set(), exact=False).labels).tolist() == [1000] * 10


def test_sample_through_the_front_doors() -> None:
    images, labels = load_cifar10()
    data = load_data("sample")
    assert torch.equal(images, data.images)
    assert torch.equal(labels, data.labels)
    assert len(data) == 1000
    assert data.classes[data.labels[0]] == cifar10.CLASSES[int(labels[0])]
    assert images.min() >= 0
    assert images.max() <= 1


def test_load_data_reads_cifar10(binary: Path) -> None:
    data = load_data(f"cifar10:{binary}")
    assert len(data) == FEW
    assert data.indices.tolist() == list(range(FEW))


@pytest.mark.parametrize("spec", ["mnist", "cifar10", "images.zip", ""])
def test_unknown_data(spec: str) -> None:
    with pytest.raises(
        ValueError, match=r"`data` must be 'sample', 'cifar10:DIR', a path that ends in \.npz or a folder"
    ):
        load_data(spec)
    with pytest.raises(ValueError, match="`data` must be 'cifar10:DIR', got 'cifar10:'"):
        load_data("cifar10:")


def test_digest_sees_values_shapes_and_order() -> None:
    a, b = np.arange(6, dtype=np.float32), np.arange(3)
    digests = {digest(a, b), digest(a + 1, b), digest(a.reshape(2, 3), b), digest(b, a), digest(a.astype(np.int64), b)}
    assert len(digests) == 5
    assert digest(a, b) == digest(a.astype(">f4"), b.copy())
    assert digest(np.zeros(1, np.uint8)) == hashlib.sha256(b"|u1(1,)\x00").hexdigest()


def npz(path: Path, **arrays: object) -> Path:
    file = path / "user.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


@settings(max_examples=20, deadline=None)
@given(pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.just(4), st.just(5))))
def test_npz_layouts_and_types_agree(tmp_path_factory, pixels: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("npz")
    labels = np.arange(len(pixels), dtype=np.uint8)
    first = load_npz(npz(folder, images=pixels, labels=labels))
    last = load_npz(npz(folder, images=pixels.transpose(0, 2, 3, 1), labels=labels))
    floats = load_npz(npz(folder, images=pixels.astype(np.float32) / np.float32(255), labels=labels))
    assert first.images.shape == pixels.shape
    assert torch.equal(first.images, last.images)
    assert torch.equal(first.images, floats.images)
    assert first.digest() == last.digest() == floats.digest()
    assert first.classes == tuple(str(k) for k in range(len(pixels)))


def test_npz_with_class_names(tmp_path: Path) -> None:
    file = npz(tmp_path, images=np.zeros((2, 3, 8, 8), np.uint8), labels=[0, 0], classes=["cat", "dog"])
    data = load_data(str(file))
    assert isinstance(data, Dataset)
    assert data.classes == ("cat", "dog")
    assert data.labels.dtype == torch.int64


GOOD = np.full((2, 3, 8, 8), 0.5)
BAD = [
    ({"labels": [0, 1]}, "must hold `images`, got labels"),
    ({"images": GOOD}, "must hold `labels`, got images"),
    ({"images": GOOD * 3, "labels": [0, 1]}, r"`images` must lie in \[0, 1\], got 1\.5 \.\. 1\.5"),
    ({"images": GOOD - 1, "labels": [0, 1]}, r"`images` must lie in \[0, 1\], got -0\.5 \.\. -0\.5"),
    ({"images": GOOD * np.nan, "labels": [0, 1]}, "`images` must be finite"),
    ({"images": GOOD.astype(int), "labels": [0, 1]}, "`images` must be uint8 or floating point, got int64"),
    ({"images": GOOD[0], "labels": [0, 1]}, r"`images` must be \(N, C, H, W\) or \(N, H, W, C\)"),
    ({"images": np.zeros((2, 4, 8, 8)), "labels": [0, 1]}, "must have 1 or 3 channels"),
    ({"images": np.zeros((2, 3, 8, 3)), "labels": [0, 1]}, "must have 1 or 3 channels"),
    ({"images": GOOD[:0], "labels": np.zeros(0, int)}, "must hold at least one image"),
    ({"images": GOOD, "labels": [0, 2**31 - 2]}, r"`labels` must lie in 0 \.\. 1048575, got 0 \.\. 2147483646"),
    ({"images": GOOD, "labels": [0, -1]}, r"`labels` must lie in .*got -1 \.\. 0"),
    ({"images": GOOD, "labels": [0, 2], "classes": ["a", "b"]}, r"`labels` must lie in 0 \.\. 1, got 0 \.\. 2"),
    ({"images": GOOD, "labels": [0.0, 1.0]}, "`labels` must be whole numbers, got float64"),
    ({"images": GOOD, "labels": [0]}, r"`labels` must have one entry for each of the 2 images, got \(1,\)"),
    ({"images": GOOD, "labels": [0, 1], "classes": [1, 2]}, "`classes` must be a list of strings"),
    ({"images": GOOD, "labels": np.array([0, "a"], object)}, "no readable NumPy archive of plain numbers"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_npz(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_npz(npz(tmp_path, **arrays))
    assert "user.npz" in str(caught.value)


def test_npz_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.npz is missing"):
        load_npz(tmp_path / "no.npz")
    whole = npz(tmp_path, images=GOOD, labels=[0, 1]).read_bytes()
    for name, content in (("cut", whole[:100]), ("empty", b""), ("text", b"not an archive")):
        file = tmp_path / f"{name}.npz"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.npz is no readable NumPy archive"):
            load_npz(file)
    np.save(tmp_path / "array.npy", GOOD)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match=r"array\.npz is no readable NumPy archive"):
        load_npz(tmp_path / "array.npz")


def test_records_know_their_number() -> None:
    assert len(Records(np.zeros((4, 3, 32, 32), np.uint8), np.zeros(4, np.int64), np.arange(4))) == 4


def test_a_damaged_header_of_an_array_is_one_line(tmp_path: Path) -> None:
    """NumPy reads the header before the archive's checksum is compared, and an open bracket is a TokenError there."""
    header = io.BytesIO()
    np.save(header, np.zeros((2, 3, 4, 4), np.uint8))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue().replace(b"}", b"("))
    with pytest.raises(ValueError, match=r"x\.npz is no readable NumPy archive of plain numbers") as caught:
        load_npz(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


def test_an_archive_larger_than_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((2, 3, 32, 32), np.uint8), labels=np.zeros(2, np.int64))
    monkeypatch.setattr("saplab.data.npz.physical_memory", lambda: 5 * 6_000)
    with pytest.raises(ValueError, match=r"x\.npz is no readable .*: it needs 0 GiB, and the machine has 0"):
        load_npz(tmp_path / "x.npz")
    monkeypatch.undo()
    assert len(load_npz(tmp_path / "x.npz")) == 2

"""The folder of a run: what is saved comes back, another run's checkpoint is refused, and a damaged one is named."""

import errno
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from saplab.learning.checkpoint import CHECKPOINT, HISTORY, RunFolder


@dataclass(frozen=True)
class Record:
    step: int
    loss: float | None
    points: tuple[float, ...] = ()


REQUEST = {"numerics": 1, "recipe": {"lr": 0.5, "batch": 8}, "seed": 3}
RECORDS = [Record(10, None), Record(20, 0.5, (1.0, 2.5))]
TENSORS = {"weight": torch.arange(6.0).view(2, 3).T, "momentum.weight": torch.ones(3, dtype=torch.float64)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder[Record]:
    return RunFolder(tmp_path / "run", REQUEST, Record)


@pytest.fixture
def saved(folder: RunFolder[Record]) -> RunFolder[Record]:
    folder.open()
    folder.save(TENSORS, RECORDS)
    return folder


def test_a_new_folder_is_empty(folder: RunFolder[Record]) -> None:
    assert folder.open() == ({}, [])
    assert list(folder.path.iterdir()) == []


def test_what_was_saved_comes_back_with_its_types(saved: RunFolder[Record]) -> None:
    tensors, history = saved.open()
    assert history == RECORDS
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert tensors["momentum.weight"].dtype == torch.float64


def test_the_header_holds_request_and_history_as_the_lines_do(saved: RunFolder[Record]) -> None:
    """Checkpoints of earlier versions must be read, and be read by them."""
    with safe_open(saved.path / CHECKPOINT, framework="pt") as file:
        header = file.metadata()
    assert header["request"] == json.dumps(REQUEST, sort_keys=True)
    lines = ['{"step": 10, "loss": null, "points": []}', '{"step": 20, "loss": 0.5, "points": [1.0, 2.5]}']
    assert header["history"] == f"[{', '.join(lines)}]"
    assert (saved.path / HISTORY).read_text() == "".join(line + "\n" for line in lines)


def test_a_history_behind_its_checkpoint_is_written_anew(saved: RunFolder[Record]) -> None:
    """As if the process had been killed between the two files."""
    (saved.path / HISTORY).write_text('{"step": 10, "loss": null, "points": []}\n')
    saved.open()
    assert len((saved.path / HISTORY).read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "its seed is 3, asked for 4; nothing was overwritten, choose another folder"),
        ({"recipe": {"lr": 0.1, "batch": 8}}, r"its recipe is \{.*0\.5.*\}, asked for \{.*0\.1.*\}; nothing"),
        ({"world": 2}, "its world is None, asked for 2; nothing"),
    ],
)
def test_another_request_is_refused(saved: RunFolder[Record], change: dict[str, object], message: str) -> None:
    before = (saved.path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match=rf"checkpoint\.safetensors belongs to another run: {message}"):
        replace(saved, request={**REQUEST, **change}).open()
    assert (saved.path / CHECKPOINT).read_bytes() == before


def test_a_request_is_compared_as_json(saved: RunFolder[Record]) -> None:
    assert len(replace(saved, request={**REQUEST, "recipe": {"batch": 8.0, "lr": 0.5}}).open()[1]) == 2


def with_header(path: Path, **header: str) -> None:
    save_file(dict.fromkeys(("weight",), torch.ones(1)), path, header)


@pytest.mark.parametrize("damage", ["truncated", "nonsense", "empty", "request", "history", "record"])
def test_a_damaged_checkpoint_is_named_in_one_line(saved: RunFolder[Record], damage: str) -> None:
    path = saved.path / CHECKPOINT
    content, request = path.read_bytes(), json.dumps(REQUEST)
    match damage:
        case "truncated":
            path.write_bytes(content[:-4])
        case "nonsense":
            path.write_bytes(b"nonsense")
        case "empty":
            path.write_bytes(b"")
        case "request":
            with_header(path, request=request[:-1], history="[]")
        case "history":
            with_header(path, request=request, history="[{")
        case "record":
            with_header(path, request=request, history='[{"step": 10, "loss": "low"}]')
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is no readable checkpoint") as error:
        saved.open()
    assert str(error.value).startswith(f"{path} ")
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_any_flipped_bit_of_a_checkpoint_is_noticed(saved: RunFolder[Record]) -> None:
    """Of tensors, names, types, offsets, records, request and checksum: each byte of the file once."""
    path = saved.path / CHECKPOINT
    content, history = path.read_bytes(), (saved.path / HISTORY).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is no"):
            saved.open()
    assert path.read_bytes() == damaged
    assert (saved.path / HISTORY).read_bytes() == history


def test_a_checkpoint_of_an_earlier_version_has_no_checksum(saved: RunFolder[Record]) -> None:
    header = {"request": json.dumps(REQUEST), "history": (saved.path / HISTORY).read_text().splitlines()[0]}
    with_header(saved.path / CHECKPOINT, **{**header, "history": f"[{header['history']}]"})
    assert saved.open()[1] == RECORDS[:1]


def test_weights_alone_are_no_checkpoint(saved: RunFolder[Record]) -> None:
    with_header(saved.path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is no checkpoint of a training run"):
        saved.open()


def test_a_history_without_a_checkpoint_is_left_alone(saved: RunFolder[Record]) -> None:
    (saved.path / CHECKPOINT).unlink()
    with pytest.raises(ValueError, match="holds a training history without a checkpoint; choose another folder"):
        saved.open()


def test_only_the_process_that_writes_touches_files(saved: RunFolder[Record]) -> None:
    leftover = saved.path / f".{CHECKPOINT}.999999999.0.tmp"
    leftover.touch()
    os.utime(leftover, (0, 0))
    before = {path.name: path.read_bytes() for path in saved.path.iterdir()}
    reader = replace(saved, writes=False)
    assert reader.open()[1] == RECORDS
    reader.save(TENSORS, RECORDS[:1])
    assert {path.name: path.read_bytes() for path in saved.path.iterdir()} == before
    saved.open()
    assert not leftover.exists()


def test_a_full_disk_keeps_the_checkpoint_before(saved: RunFolder[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {path.name: path.read_bytes() for path in saved.path.iterdir()}
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"no space left .*checkpoint\.safetensors"):
        saved.save({}, [])
    assert {path.name: path.read_bytes() for path in saved.path.iterdir()} == before

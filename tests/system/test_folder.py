"""Files inside a folder: links and what is no file are refused, by name, and nothing is written elsewhere."""

import os
import socket

import pytest

from saplab.system import folder
from saplab.system.folder import (
    NotPlainError,
    append_inside,
    inside,
    read_inside,
    require_plain,
    write_files,
    write_inside,
)


def put(kind, path, target):
    """Put something else than a file, or than a folder, in a place."""
    if kind == "a link":
        path.symlink_to(target)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(path))
    else:
        path.mkdir()


KINDS = ("a link", "a pipe", "a socket", "a folder")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # sockets have short names
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (own := tmp_path / "run").mkdir()
    return own


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named_and_neither_read_nor_written(root, kind):
    put(kind, root / "x", root.parent / "mine.txt")
    for act in (
        lambda: inside(root, "x"),
        lambda: read_inside(root, "x"),
        lambda: append_inside(root, "x", b"!"),
        lambda: write_inside(root, "x", b"!"),
        lambda: write_files(root, {"y": b"!", "x": b"!"}),
    ):
        with pytest.raises(NotPlainError, match=f"it is {kind}, not a file") as caught:
            act()
        assert caught.value.filename == str(root / "x")
    assert (root.parent / "mine.txt").read_text() == "mine"
    assert not (root / "y").exists()


def test_a_link_on_the_way_is_refused_and_the_folder_itself_may_be_one(root):
    (root / "cells").symlink_to(root.parent / "elsewhere")
    for act in (lambda: inside(root, "cells", folder=True), lambda: write_files(root, {"cells/a/b": b""})):
        with pytest.raises(NotPlainError, match="it is a link, not a folder; links inside a folder of results are not"):
            act()
    assert not list((root.parent / "elsewhere").iterdir())
    (far := root.parent / "far").symlink_to(root.parent / "elsewhere")
    assert write_files(far, {"a/b": b"1"}) == (far / "a" / "b",)
    append_inside(far, "a/b", b"2")
    assert read_inside(far, "a/b") == b"12"


def test_a_file_is_no_folder(root):
    (root / "cells").touch()
    with pytest.raises(NotPlainError, match="it is a file, not a folder"):
        inside(root, "cells/x")


@pytest.mark.parametrize("name", ["../mine.txt", "a/../../mine.txt", "/etc/passwd"])
def test_a_name_that_leads_out_is_refused(root, name):
    with pytest.raises(ValueError, match="lies outside"):
        inside(root, name)


def test_what_is_not_there_is_neither_a_link_nor_an_error_before_it_is_read(root):
    assert inside(root, "a/b") == root / "a" / "b"
    require_plain(root / "nowhere")
    for act in (lambda: read_inside(root, "a/b"), lambda: write_inside(root, "a/b", b"")):
        with pytest.raises(FileNotFoundError):
            act()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_files_holds_files_alone(root, kind):
    (root / "x").touch()
    require_plain(root, folders=False)
    put(kind, root / ".y", root / "x")
    with pytest.raises(NotPlainError, match=f"it is {kind}, not a file"):
        require_plain(root, folders=False)
    if kind == "a folder":
        require_plain(root)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110
def test_a_full_disk_is_named_by_the_file(root, monkeypatch):
    monkeypatch.setattr(folder, "inside", lambda root, name: root / name)
    (root / "x").symlink_to("/dev/full")
    with pytest.raises(OSError, match="no space left on the device; what was saved before is whole") as caught:
        append_inside(root, "x", b"1")
    assert caught.value.filename == str(root / "x")


def test_a_file_without_end_is_not_read(root, monkeypatch):
    (root / "x").write_bytes(b"123")
    monkeypatch.setattr(folder, "_LARGEST", 2)
    with pytest.raises(OSError, match="it is too large"):
        read_inside(root, "x")

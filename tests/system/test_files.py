"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from saplab.system.files import write_atomically


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"file\.txt"):
        write_atomically(tmp_path / "file.txt", b"x")


def test_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    """The order that survives a power cut: content, then name, then folder."""
    events = []
    replace_file = Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("flush"))
    monkeypatch.setattr(Path, "replace", lambda *paths: events.append("name") or replace_file(*paths))
    write_atomically(tmp_path / "file.txt", b"x")
    assert events[:2] == ["flush", "name"]
    assert events[2:] == ["flush"] * (os.name == "posix")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.file\.txt"):
        write_atomically(tmp_path / "gone" / "file.txt", b"x")


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"x")
    write_atomically(tmp_path / "atomic", b"x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "usual").stat().st_mode

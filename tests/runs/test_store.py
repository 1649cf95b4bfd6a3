import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import DENSE, fill, make_cell, make_curve, make_request, make_result

from saplab.runs import BrokenCellError, Request, Store, cell_from_json
from saplab.runs.cell import NUMERICS, Curve
from saplab.system import files
from saplab.system.files import write_atomically
from saplab.system.machine import made, usable_cores, usable_memory, versions


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def assert_same(a, b):
    for name in ("probs", "votes", "half", "single", "labels", "examples", "half_cosine", "gradient_norm",
                 "pictures"):  # fmt: skip
        assert getattr(a, name).dtype == getattr(b, name).dtype
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert dict(a.made) == dict(b.made)


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path / "run", cells=1)


@pytest.fixture
def cell(store):
    return store.request.cells[0]


# What is saved is loaded


def test_a_saved_result_is_loaded_bit_for_bit(store):
    second = store.request.cells[1]
    result = make_result(second)
    assert not store.has(second)
    store.save(second, result)
    assert store.has(second)
    assert_same(store.load(second), result)


def test_a_reopened_store_has_what_was_saved(store, cell):
    again = Store.open(store.root, store.request)
    assert again.has(cell)
    assert again.missing() == store.request.cells[1:]
    assert again.problems() == []


def test_non_contiguous_results_are_saved_as_they_read(store):
    second = store.request.cells[1]
    result = make_result(second)
    turned = replace(result, probs=np.asfortranarray(result.probs))
    store.save(second, turned)
    assert_same(store.load(second), result)


@given(
    start=st.integers(0, 10**6),
    size=st.integers(1, 1000),
    seed=st.integers(0, 2**63),
    strengths=st.lists(st.floats(0, 255) | st.integers(0, 255), min_size=1, max_size=9).map(tuple),
    step=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(),
)
def test_cells_come_back_from_json(start, size, seed, strengths, step, name):
    attack = {"name": name, "step": step, "steps": 3, "restart": None}
    cell = make_cell(start=start, stop=start + size, seed=seed, strengths=strengths, attack=attack)
    again = cell_from_json(cell.to_json())
    assert (again, again.digest) == (cell, cell.digest)


def test_requests_come_back_from_json():
    request = replace(make_request(), title="Ünïcode “title” λ")
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 2}', '{"format": 3}', '{"numerics": 1}'])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Request.from_json(text)
    with pytest.raises(ValueError, match=r"."):
        cell_from_json(text)


def test_cells_of_other_numerics_are_refused():
    text = make_cell().to_json().replace(f'"numerics":{NUMERICS}', '"numerics":0')
    with pytest.raises(ValueError, match=f"numerics 0, this version of saplab computes with {NUMERICS}"):
        cell_from_json(text)


# Another request, or other files


def resettled(**changes):
    curves = tuple(replace(c, cells=tuple(replace(x, **changes) for x in c.cells)) for c in make_request().curves)
    return replace(make_request(), curves=curves)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (resettled(passes=50), r"passes 1, not 50"),
        (resettled(seed=7), r"seed 0, not 7"),
        (resettled(strengths=(0.0, 1.0)), r"strengths 0\.0, 1\.0, 2\.0, 4\.0, 8\.0, 16\.0, not 0\.0, 1\.0"),
        (resettled(attack={"name": "noise"}), r"attack average loss, not absent, attack backward mask, not absent"),
        (resettled(defender=replace(DENSE, digest="c" * 64)), r"defender digest a+, not c+"),
        (make_request(shards=3), r"examples 0\.\.40, not 0\.\.60, examples per cell \[20, 20\], not \[20, 20, 20\]"),
        (make_request(size=10, shards=4), r"examples per cell \[20, 20\], not \[10, 10, 10, 10\]"),
        (Request("t", make_request().curves[:1]), "curves dense, SAP-100, SAP-100, identity backward, not dense"),
    ],
)
def test_another_request_is_refused_by_name_and_nothing_changes(store, other, difference):
    before = contents(store.root)
    with pytest.raises(ValueError, match=rf"run holds another request \({difference}\); choose another --out"):
        Store.open(store.root, other)
    assert contents(store.root) == before


def test_a_folder_of_another_request_without_a_cell_is_taken_over(tmp_path):
    fill(tmp_path, cells=0)
    assert Store.open(tmp_path, resettled(passes=50)).request == resettled(passes=50)


def test_the_words_around_a_request_may_differ(store):
    curves = tuple(replace(curve, claim="Other words.", paper={}) for curve in store.request.curves)
    again = Store.open(store.root, Request("Another title", curves, "another command"))
    assert again.request == store.request


@pytest.mark.parametrize("name", ["notes.txt", "cells/ab.safetensors", ".hidden"])
def test_a_folder_with_other_files_is_refused(tmp_path, name):
    (tmp_path / "cells").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"holds other files \({name}\); choose another --out"):
        Store.open(tmp_path, make_request())
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "request.json").exists()


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        Store.open(tmp_path / "run", make_request())


def test_an_empty_folder_is_taken(tmp_path):
    assert len(Store.open(tmp_path, make_request()).missing()) == 6


def test_a_damaged_request_is_named(store):
    (store.root / "request.json").write_text('{"format":')
    with pytest.raises(ValueError, match=r"request\.json cannot be read"):
        Store.open(store.root, store.request)


def test_no_run_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        Store.read(tmp_path)


def test_a_request_needs_curves_with_different_names():
    with pytest.raises(ValueError, match="at least one curve"):
        Request("t", ())
    with pytest.raises(ValueError, match="at least one cell"):
        Request("t", (Curve("a", ()),))
    with pytest.raises(ValueError, match="different labels"):
        Request("t", (make_curve("a"), make_curve("a")))


# Damaged and foreign files


def damage(path, kind):
    """Damage a file, a second after it was written: a file system's clock may be too coarse for a test."""
    whole, written = path.read_bytes(), path.stat().st_mtime_ns
    middle = len(whole) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut short": whole[:-1],
            "cut in the header": whole[:20],
            "longer": whole + b"x",
            "one bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "text": b"not a cell",
        }[kind]
    )
    os.utime(path, ns=(written, written + 10**9))


@pytest.mark.parametrize("kind", ["empty", "cut short", "cut in the header", "longer", "one bit", "text"])
def test_a_damaged_file_counts_as_missing_and_is_reported(store, cell, kind):
    damage(store.path(cell), kind)
    assert not store.has(cell)
    assert cell in store.missing()
    assert len(store.problems()) == 1
    assert str(store.path(cell)) in store.problems()[0]
    with pytest.raises(BrokenCellError, match=cell.digest):
        store.load(cell)
    store.save(cell, make_result(cell))
    assert store.has(cell)
    assert store.problems() == []


def test_another_cells_file_counts_as_missing_and_is_reported(store, cell):
    other = store.request.cells[1]
    store.path(cell).rename(store.path(other))
    assert not store.has(other)
    assert "holds the result of another cell" in store.problems()[0]


def test_foreign_safetensors_are_reported(store, cell):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, store.path(cell))
    assert "was not written by saplab" in store.problems()[0]
    (store.root / "cells" / "notes.txt").write_text("mine")
    assert any("notes.txt does not belong to this run" in problem for problem in store.problems())


def test_a_missing_cell_is_named(store):
    with pytest.raises(FileNotFoundError, match="not been computed yet"):
        store.load(store.request.cells[1])


# Results of the wrong kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probs": np.zeros((6, 20, 10))}, "`probs` must be float32, got float64"),
        ({"votes": np.zeros((6, 20, 10), np.int64)}, "`votes` must be int32"),
        ({"labels": np.zeros(20, np.int32)}, "`labels` must be int64"),
        ({"votes": np.zeros((6, 20, 9), np.int32)}, r"`probs` and `votes` must both be \(L, N, C\)"),
        ({"labels": np.zeros(19, np.int64)}, r"`labels` must be \(20,\)"),
    ],
)
def test_results_of_other_types_or_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(make_result(make_cell(stop=20)), **changes)


def test_results_of_another_size_are_refused(store, cell):
    with pytest.raises(ValueError, match=r"must hold \(6, 20\) strengths and examples, got \(6, 40\)"):
        store.save(cell, make_result(make_cell(stop=40)))


# Killed, full, crowded


def test_leftovers_of_killed_processes_are_removed_and_others_kept(store):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = store.root / "cells" / f".x.safetensors.{ended.pid}.aa.tmp"
    alive = store.root / "cells" / f".x.safetensors.{os.getppid()}.bb.tmp"
    old = store.root / f".request.json.{os.getpid()}.cc.tmp"
    for path in (dead, alive, old):
        path.write_text("part")
    os.utime(old, (time.time() - 3600,) * 2)
    Store.open(store.root, store.request)
    assert [path.exists() for path in (dead, alive, old)] == [False, True, False]


def test_a_folder_with_only_leftovers_is_taken(tmp_path):
    (tmp_path / ".request.json.1.aa.tmp").write_text("part")
    assert len(Store.open(tmp_path, make_request()).missing()) == 6


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from synthetic import make_request, make_result
from saplab.runs import Store
store = Store.open(Path(sys.argv[1]), make_request(size=200))
print("ready", flush=True)
while True:
    for cell in store.request.cells:
        store.save(cell, make_result(cell))
"""


def test_a_killed_writer_leaves_whole_files_only(tmp_path):
    script = WRITER.format(tests=str(Path(__file__).parents[1]))
    request = make_request(size=200)
    for delay in (0.02, 0.06, 0.13):
        with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        store = Store.open(tmp_path, request)
        assert store.problems() == []
        assert not list((tmp_path / "cells").glob(".*"))
        for cell in filter(store.has, request.cells):
            assert_same(store.load(cell), make_result(cell))


def test_two_threads_may_save_the_same_cell(store, cell):
    result = make_result(cell)
    threads = [threading.Thread(target=lambda: [store.save(cell, result) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(store.load(cell), result)
    assert not list((store.root / "cells").glob(".*"))


def test_a_full_disk_is_said_clearly_and_breaks_nothing(store, cell, monkeypatch):
    before = contents(store.root)

    def full(path, content):
        path.write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "_write_through", full)
    with pytest.raises(OSError, match=r"no space left .* what was saved before is whole.*cells") as caught:
        store.save(cell, make_result(cell))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(store.path(cell)))
    assert contents(store.root) == before


@pytest.fixture
def tiny_disk(tmp_path):
    """Mount a file system of 128 KiB, where that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", tmp_path]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_really_full_disk_breaks_nothing(tiny_disk):
    store = Store.open(tiny_disk / "run", make_request(size=100))
    store.save(store.request.cells[0], make_result(store.request.cells[0]))
    with pytest.raises(OSError, match="no space left"):
        store.save(store.request.cells[1], make_result(store.request.cells[1]))
    assert store.problems() == []
    assert store.has(store.request.cells[0])
    assert len(list((tiny_disk / "run" / "cells").iterdir())) == 1


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


# How a cell was made


def test_made_can_be_stored(store, cell):
    store.save(cell, replace(make_result(cell), made=made(seconds=1.5)))
    found = store.load(cell).made
    assert found["seconds"] == 1.5
    assert found["versions"]["torch"] == versions(("torch",))["torch"] != "missing"
    json.dumps(dict(found))


def test_usable_cores_respect_a_containers_quota(monkeypatch, tmp_path):
    from saplab.runs import machine

    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    assert (usable_cores(), usable_memory()) == (1, 2**20)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert 1 <= usable_cores() <= os.cpu_count()
    assert usable_memory() > 2**20

"""The folder of a run: what is saved is loaded, whatever dies, fills up or lies in the way."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import DENSE, SAP, fill, make_cell, make_curve, make_request, make_result

from saplab import defenses
from saplab.attacks import RandomNoise
from saplab.runs import BrokenCellError, Curve, Request, Store
from saplab.runs.cell import EarlierVersionError
from saplab.runs.results import ImageResult
from saplab.system import files
from saplab.system.machine import made, versions


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def assert_same(a, b):
    for name in ImageResult.layout:
        assert getattr(a, name).dtype == getattr(b, name).dtype
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
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
    assert second in store.survey().missing
    store.save(second, result)
    assert second not in store.survey().missing
    assert_same(store.load(second), result)


def test_a_reopened_store_has_what_was_saved(store, cell):
    again = Store.open(store.root, store.request)
    assert list(again.survey().stored) == [cell.digest]
    assert again.survey().missing == store.request.cells[1:]
    assert again.survey().damaged == ()


def test_non_contiguous_results_are_saved_as_they_read(store):
    second = store.request.cells[1]
    result = make_result(second)
    turned = replace(result, probs=np.asfortranarray(result.probs))
    store.save(second, turned)
    assert_same(store.load(second), result)


def test_requests_come_back_from_json():
    request = replace(make_request(), title="Ünïcode “title” λ")
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a request: Input data was truncated"),
        ("[]", "not a request: Expected `object`, got `array`"),
        ("{}", "not a request: Object missing required field `format`"),
        ("null", "not a request: Expected `object`, got `null`"),
        (b"\xff", "not a request: JSON is malformed: invalid character (byte 0)"),
        ('{"format": "5"}', "not a request: Expected `int`, got `str` - at `$.format`"),
        ('{"format": 99}', "format 99, this version of saplab reads 5"),
        ('{"numerics": 1}', "not a request: Object contains unknown field `numerics`"),
    ],
)
def test_other_json_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Request.from_json(text)
    assert not isinstance(caught.value, EarlierVersionError)


# Another request, or other files


def resettled(**changes):
    curves = tuple(replace(c, cells=tuple(replace(x, **changes) for x in c.cells)) for c in make_request().curves)
    return replace(make_request(), curves=curves)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (resettled(passes=50), r"curve 'dense': passes 1, not 50"),
        (resettled(seed=7), r"curve 'dense': seed 0, not 7"),
        (resettled(eps=(0.0, 1 / 255)), r"curve 'dense': λ 0, 1, 2, 4, 8, 16, not 0, 1"),
        (
            resettled(eps=(*make_cell().eps[:-1], 0.0627)),
            r"curve 'dense': λ 0, 1, 2, 4, 8, 16, not 0, 1, 2, 4, 8, 15.9885",
        ),
        (
            resettled(attack=RandomNoise()),
            r"curve 'dense': attack class fgsm, not noise, attack samples 20, not absent",
        ),
        (
            resettled(defender=replace(DENSE, digest="c" * 64)),
            r"curve 'dense': the network's weights or code are others, defender digest a{12}, not c{12}: does it draw"
            r" its weights when it is built\?",
        ),
        (
            resettled(defender=replace(SAP, defenses=(defenses.SAP(50),))),
            "curve 'dense': defender defenses class absent, not sap, defender defenses percent absent, not 50.0",
        ),
        (resettled(device="cuda"), r"curve 'dense': device cpu, not cuda"),
        (make_request(shards=3), r"curve 'dense': ranges 0, 20, 40, not 0, 20, 40, 60"),
        (make_request(size=10, shards=4), r"curve 'dense': ranges 0, 20, 40, not 0, 10, 20, 30, 40"),
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


def test_the_same_cells_by_other_names_go_on_under_the_new_names(store):
    """A version that calls a network otherwise computes nothing again."""
    asked = make_request()
    renamed = replace(asked, curves=tuple(replace(c, label=f"new {c.label}") for c in asked.curves))
    assert not store.request.difference(renamed)
    again = Store.open(store.root, renamed)
    assert again.request.names == renamed.names
    assert Store.read(store.root).request.names == renamed.names
    assert again.survey() == store.survey()


def test_words_around_a_request_that_changed_replace_those_that_were_there(store):
    curves = tuple(replace(curve, claim="Other words.", paper={}) for curve in store.request.curves)
    asked = Request("Another title", curves, "another command")
    again = Store.open(store.root, asked)
    assert again.request == Store.read(store.root).request == asked
    assert again.survey() == store.survey()


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
    assert len(Store.open(tmp_path, make_request()).survey().missing) == 6


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
    assert cell in store.survey().missing
    assert len(store.survey().damaged) == 1
    assert str(store.path(cell)) in store.survey().damaged[0]
    with pytest.raises(BrokenCellError, match=cell.digest):
        store.load(cell)
    store.save(cell, make_result(cell))
    assert cell not in store.survey().missing
    assert store.survey().damaged == ()


def test_another_cells_file_counts_as_missing_and_is_reported(store, cell):
    other = store.request.cells[1]
    store.path(cell).rename(store.path(other))
    assert other in store.survey().missing
    assert "holds the result of another cell" in store.survey().damaged[0]


def test_foreign_safetensors_are_reported(store, cell):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, store.path(cell))
    assert "was not written by saplab" in store.survey().damaged[0]
    (store.root / "cells" / "notes.txt").write_text("mine")
    assert "notes.txt does not belong to this run" in store.survey().foreign[0]


def test_a_missing_cell_is_named(store):
    with pytest.raises(FileNotFoundError, match="not been computed yet"):
        store.load(store.request.cells[1])


# Results of the wrong kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probs": np.zeros((6, 20, 10))}, "`probs` must be float32 (L=6, N=20, C=10), got float64"),
        ({"votes": np.zeros((6, 20, 10), np.int64)}, "`votes` must be int32 (L=6, N=20, C=10), got int64"),
        ({"labels": np.zeros(20, np.int32)}, "`labels` must be int64 (N=20), got int32"),
        ({"votes": np.zeros((6, 20, 9), np.int32)}, "`votes` must be int32 (L=6, N=20, C=10), got int32 (6, 20, 9)"),
        ({"labels": np.zeros(19, np.int64)}, "`labels` must be int64 (N=20), got int64 (19,)"),
    ],
)
def test_results_of_other_types_or_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(make_result(make_cell(stop=20)), **changes)


def test_results_of_another_size_are_refused(store, cell):
    with pytest.raises(ValueError, match=r"`probs` must be \(6, 20, 10\) for this cell, got \(6, 40, 10\)"):
        store.save(cell, make_result(make_cell(stop=40)))


# Killed, full, crowded


def test_leftovers_of_killed_processes_are_removed_and_others_kept(store):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = re.sub(r"\W", "-", socket.gethostname())
    dead = store.root / "cells" / f".x.safetensors.{ended.pid}@{host}.aa.tmp"
    alive = store.root / "cells" / f".x.safetensors.{os.getppid()}@{host}.bb.tmp"
    elsewhere = store.root / "cells" / f".x.safetensors.{ended.pid}@{host}-2.cc.tmp"
    old = store.root / f".request.json.{os.getpid()}@{host}.dd.tmp"
    paths = (dead, alive, elsewhere, old)
    for path in paths:
        path.write_text("part")
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    Store.open(store.root, store.request)
    assert [path.exists() for path in paths] == [False, True, True, False]


def test_a_folder_with_only_leftovers_is_taken(tmp_path):
    (tmp_path / ".request.json.1.aa.tmp").write_text("part")
    assert len(Store.open(tmp_path, make_request()).survey().missing) == 6


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
            while not any((tmp_path / "cells").glob("*.safetensors")):
                assert writer.poll() is None, "the writer has ended by itself"
                time.sleep(0.001)
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        store = Store.open(tmp_path, request)
        assert store.survey().damaged == ()
        assert store.survey().stored
        assert not list((tmp_path / "cells").glob(".*"))
        for cell in map(request.by_digest.get, store.survey().stored):
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
    assert store.survey().damaged == ()
    assert list(store.survey().stored) == [store.request.cells[0].digest]
    assert len(list((tiny_disk / "run" / "cells").iterdir())) == 1


# How a cell was made


def test_made_can_be_stored(store, cell):
    store.save(cell, replace(make_result(cell), made=made(seconds=1.5, busy=1.25)))
    found = store.load(cell).made
    assert found["seconds"] == 1.5
    assert found["versions"]["torch"] == versions(("torch",))["torch"] != "missing"
    json.dumps(dict(found))

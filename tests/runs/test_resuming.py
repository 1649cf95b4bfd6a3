"""What a second run finds: the index that spares reading, requests that grow, and how far a run is."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from synthetic import SLOPES, fill, make_curve, make_result

from saplab.runs import BrokenCellError, Curve, Request, Store
from saplab.runs import store as module
from saplab.runs.engines.base import Failed
from saplab.runs.progress import progress_of
from saplab.runs.record import failures, note_failure, running


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path / "run")


@pytest.fixture
def reads(monkeypatch):
    """Count the files of cells that are read."""
    found = []
    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda path, cell: found.append(path) or decode(path, cell))
    return found


# The index


def test_files_that_are_in_the_index_are_not_read_again(store, reads):
    again = Store.open(store.root, store.request)
    found = again.survey()
    assert (found.missing, found.damaged, found.foreign, reads) == ((), (), (), [])


def test_a_touched_file_is_read_once(store, reads):
    path = store.path(store.request.cells[2])
    os.utime(path, ns=(1, 1))
    assert store.survey().missing == store.survey().missing == ()
    assert reads == [path]


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff nonsense\n1 2\n", b"0123456789abcdef 12 -3"])
def test_a_lost_or_damaged_index_costs_reading_only(store, reads, content):
    index = store.root / "index.txt"
    index.unlink() if content is None else index.write_bytes(content)
    assert store.survey().missing == ()
    assert len(reads) == 6
    assert store.survey().missing == ()
    assert len(reads) == 6


def test_a_torn_line_spoils_no_other(store, reads):
    index = store.root / "index.txt"
    index.write_bytes(index.read_bytes()[:-3])
    cell = store.request.cells[0]
    store.save(cell, make_result(cell))
    assert store.survey().missing == ()
    assert reads == [store.path(store.request.cells[-1])]


def test_a_read_only_index_is_no_error(store, monkeypatch):
    (store.root / "index.txt").unlink()
    (store.root / "index.txt").mkdir()
    assert store.survey().missing == ()


def test_what_rots_in_place_is_found_when_it_is_loaded_and_computed_again(store):
    cell = store.request.cells[3]
    path = store.path(cell)
    whole, times = bytearray(path.read_bytes()), path.stat()
    whole[-100] ^= 1
    path.write_bytes(whole)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.survey().missing == ()  # size and time are as they were
    with pytest.raises(BrokenCellError, match="do not match its checksum"):
        store.load(cell)
    assert store.survey().missing == (cell,)
    assert len(store.survey().damaged) == 1


# Requests


def test_figures_may_have_lines_of_one_label(store):
    """A curve of another figure is another curve, whatever its label."""
    dense = store.request.curves[0]
    other = replace(dense, figure="fig", cells=tuple(replace(cell, passes=9) for cell in dense.cells))
    again = Store.open(store.root, Request("u", (other,)), extend=True)
    assert [curve.name for curve in again.request.curves] == [*SLOPES, "fig: dense"]
    assert again.survey().missing == other.cells
    assert [curve.label for curve in progress_of(again).curves] == [*SLOPES, "fig: dense"]


def test_a_request_of_many_cells_is_a_short_text():
    curve = make_curve("many", size=10, shards=20_000)
    request = Request("t", (curve,))
    text = request.to_json()
    assert len(text) < 20 * 20_000
    assert Request.from_json(text) == request


def test_repeats_come_back():
    curve = make_curve("a", shards=3)
    repeats = tuple(tuple(replace(cell, seed=seed) for cell in curve.cells) for seed in (5, 9))
    request = Request("t", (replace(curve, repeats=repeats),))
    assert Request.from_json(request.to_json()) == request
    assert len(request.cells) == 9


@pytest.mark.parametrize("change", [{"start": 21}, {"seed": 1}])
def test_cells_that_are_no_ranges_of_one_are_refused(change):
    cells = make_curve("a", shards=2).cells
    with pytest.raises(ValueError, match="cut into ranges without a gap, got others in 'a'"):
        Request("t", (Curve("a", (cells[0], replace(cells[1], **change))),)).to_json()


def test_a_request_grows_and_shares_cells(store, reads):
    dense = store.request.curves[0]
    other = Request("u", (dense, replace(dense, label="the same"), make_curve("new", seed=4)), "saplab other")
    again = Store.open(store.root, other, extend=True)
    assert [curve.label for curve in again.request.curves] == [*SLOPES, "the same", "new"]
    assert again.request.command == "saplab demo --out saplab-demo && saplab other"
    assert again.request.title == store.request.title
    assert again.survey().missing == other.curves[2].cells
    assert Store.read(store.root).request == again.request
    assert Store.open(store.root, store.request, extend=True).request == again.request
    assert reads == []


def test_a_request_that_asks_otherwise_does_not_extend(store):
    dense = store.request.curves[0]
    other = Request("u", (replace(dense, cells=tuple(replace(cell, passes=9) for cell in dense.cells)),))
    with pytest.raises(ValueError, match=r"another request \(curve 'dense': passes 1, not 9\); choose another --out"):
        Store.open(store.root, other, extend=True)
    assert Store.read(store.root).request == store.request
    with pytest.raises(ValueError, match="`other` must not ask otherwise"):
        store.request.extended(other)


# How far a run is


def test_a_finished_run(store):
    found = progress_of(store)
    assert (found.state, found.stored, found.total, found.seconds_left) == ("finished", 6, 6, 0)
    assert [(curve.label, curve.stored, curve.total) for curve in found.curves] == [(label, 2, 2) for label in SLOPES]


def test_the_time_left_follows_the_work_and_the_last_runs_speed(tmp_path):
    """A gradient of 20 samples costs 60 passes, six strengths 6 predictions: of one pass, or of 20 for the defended."""
    store = fill(tmp_path, cells=3)
    start = 1_000_000
    for k, cell in enumerate(store.request.cells[:3]):
        os.utime(store.path(cell), ns=(0, (start + 10 * (k - 1)) * 10**9))  # the first one before the run
    note = {"pid": 1, "host": "elsewhere", "engine": "in process", "started": start, "ended": start + 20}
    (store.root / "run.json").write_text(json.dumps(note))
    found = progress_of(store)
    assert (found.state, found.engine, found.stored) == ("stopped", "in process", 3)
    done, left = (60 + 6) + (60 + 120), 3 * (60 + 120)
    assert found.seconds_left == pytest.approx(10 * left / done)


def test_the_time_left_is_unknown_at_first(tmp_path):
    found = progress_of(fill(tmp_path, cells=0))
    assert (found.state, found.engine, found.stored, found.seconds_left) == ("stopped", "", 0, None)


def test_a_running_process_is_seen_and_a_vanished_one_as_well(tmp_path):
    store = fill(tmp_path, cells=1)
    with running(store.root, "in process"):
        assert progress_of(store).state == "running"
        note = json.loads((store.root / "run.json").read_text())
    assert progress_of(store).state == "stopped"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for change, state in (({"pid": ended.pid}, "stopped"), ({"host": "elsewhere"}, "running")):
        (store.root / "run.json").write_text(json.dumps({**note, **change}))
        assert progress_of(store).state == state
    assert note["host"] == socket.gethostname()


def test_failures_are_shown_until_their_cells_are_there(tmp_path):
    store = fill(tmp_path, cells=1)
    first, second, third = store.request.cells[:3]
    for cell in (first, second, third):
        note_failure(store.root, Failed((cell,), "RuntimeError: no", "Traceback", 3))
    with (store.root / "failures.jsonl").open("a") as file:
        file.write('{"cells": ["to')
    found = [(failure.label, failure.start, failure.stop, failure.reason, failure.tries)
             for failure in progress_of(store).failures]  # fmt: skip
    assert found == [("dense", 20, 40, "RuntimeError: no", 3), ("SAP-100", 0, 20, "RuntimeError: no", 3)]
    assert [note.details for note in failures(store.root)[0]] == ["Traceback"] * 3
    with running(store.root, "in process"):
        assert failures(store.root) == ((), ())


def test_ten_thousand_cells_are_looked_at_in_little_time(tmp_path, monkeypatch):
    """The benchmark has 100,000; here a tenth, without waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    request = Request("t", (make_curve("many", size=1, shards=10_000, eps=(0.0,)),))
    store = Store.open(tmp_path, request)
    result = make_result(request.cells[0])
    for cell in request.cells:
        store.save(cell, result)
    begin = time.process_time()
    found = progress_of(Store.read(tmp_path))
    assert found.stored == 10_000
    assert time.process_time() - begin < 6

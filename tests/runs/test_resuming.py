"""What a second run finds: the index that spares reading, requests that grow, and how far a run is."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from synthetic import SLOPES, fill, make_curve, make_result

import saplab
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
    again = Store.open(store.root / "again", replace(store.request, curves=(*store.request.curves, other)))
    assert [curve.name for curve in again.request.curves] == [*SLOPES, "fig: dense"]
    assert other.cells[0] in again.survey().missing
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


def test_the_same_numbers_in_other_words_get_the_new_words(store, reads):
    dense, *others = store.request.curves
    named = replace(store.request, title="Better", classes=("a", "b"), notes=("seen",))
    told = replace(named, curves=(replace(dense, paper={0.0: 89.8}, claim="So."), *others))
    for words in (named, told):
        assert Store.open(store.root, words).request == words
        assert Store.read(store.root).request == words
    assert reads == []


def test_a_study_s_figures_go_with_its_request(tmp_path):
    curve = make_curve("a")
    for request, stays in ((Request("t", (curve,)), True), (Request("u", (replace(curve, label="b"),)), False)):
        Store.open(tmp_path, Request("t", (curve,)))
        (tmp_path / "study.json").write_text("{}")
        Store.open(tmp_path, request)
        assert (tmp_path / "study.json").exists() == stays


def test_a_folder_without_a_cell_is_free_where_a_class_has_changed(tmp_path, monkeypatch):
    request = Request("t", (make_curve("a"),))
    own, faults = Request.from_json, ["the source of `defense` mine:Mine has changed since this was stored"]

    def read(text):
        if faults:
            raise ValueError(faults.pop())
        return own(text)

    Store.open(tmp_path, request)
    monkeypatch.setattr(Request, "from_json", read)
    store = Store.open(tmp_path, request)
    assert faults == []
    store.save(request.cells[0], make_result(request.cells[0]))
    del store
    faults.append("the source has changed")
    with pytest.raises(ValueError, match=r"request\.json cannot be read: the source has changed"):
        Store.open(tmp_path, request)


def test_a_run_inside_the_folder_is_no_other_file(tmp_path):
    Store.open(tmp_path / "table1", Request("t", (make_curve("a"),)))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(notes.txt\)"):
        Store.open(tmp_path, Request("u", (make_curve("b"),)))
    (tmp_path / "notes.txt").unlink()
    assert Store.open(tmp_path, Request("u", (make_curve("b"),))).request.title == "u"


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


def test_processes_that_share_a_folder_keep_each_other_s_notes(tmp_path):
    store = fill(tmp_path, cells=2)
    failed = Failed((store.request.cells[3],), "RuntimeError: no", "", 3)
    with running(store.root, "first"):
        note_failure(store.root, failed)
        other = "from saplab.runs.record import running; from pathlib import Path; import sys\n"
        other += "with running(Path(sys.argv[1]), 'second'): pass"
        subprocess.run([sys.executable, "-c", other, str(store.root)], check=True)
        progress = progress_of(store)
        assert (progress.state, progress.engine, len(progress.failures)) == ("running", "first", 1)
    assert progress_of(store).state == "stopped"


def test_of_a_family_that_a_kill_has_torn_the_rest_is_the_same_bit_for_bit(tmp_path):
    images, labels = saplab.load_cifar10("sample")
    net = saplab.defend(saplab.load_model("preact-resnet20-dense"), saplab.SAP(100))
    attacks = [saplab.FGSM(saplab.MonteCarlo(samples)) for samples in (1, 3, 30)]
    kept = []
    for _ in range(2):
        found = saplab.evaluate(net, images[:4], labels[:4], attacks, 8 / 255, passes=2, out=tmp_path, baseline=False,
                                progress=False)  # fmt: skip
        store = Store.read(tmp_path)
        results = [store.load(cell) for cell in store.request.cells]
        kept.append([getattr(one, name) for one in results for name in one.layout])
        store.path(next(cell for cell in store.request.cells if cell.attack.samples == 30)).unlink()
        del found, store
    assert all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(*kept, strict=True))

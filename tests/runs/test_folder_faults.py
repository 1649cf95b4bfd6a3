"""Folders that two requests want, and folders in which something has rotted: said, mended, never reported as whole."""

import json
import os
import re
import socket
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import fill, make_request, make_result

from saplab.cli.errors import guarded
from saplab.evaluation.rows import summarise
from saplab.runs import Store
from saplab.runs.progress import progress_of
from saplab.runs.record import note_failure, running
from saplab.runs.request import DamagedRequestError

RACER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from synthetic import make_request
from saplab.runs import Store
root, shards = Path(sys.argv[2]), int(sys.argv[3])
while not Path(sys.argv[4]).exists():
    time.sleep(0.001)
try:
    store = Store.open(root, make_request(shards=shards))
except ValueError as error:
    print(error)
else:
    print("mine")
    sys.stdout.flush()
    sys.stdin.read()
    assert Store.read(root).request == store.request
"""


def racer(root, shards, gun):
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(RACER),
        str(Path(__file__).parents[1]),
        str(root),
        str(shards),
        gun,
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def rot(path, bit=0, at=-100):
    """Flip a bit, and leave size and time as they were."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[at] ^= 1 << bit
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def said(capsys, *words):
    from saplab.cli import app

    code = guarded(lambda: app([*map(str, words)], prog_name="saplab", standalone_mode=False))
    return code, *capsys.readouterr()


# Two requests for one folder


def test_of_different_requests_that_race_for_a_fresh_folder_one_gets_it(tmp_path):
    gun = tmp_path / "gun"
    runs = [racer(tmp_path / "run", shards, str(gun)) for shards in (2, 3, 4)]
    try:
        gun.touch()
        words = [run.stdout.readline().strip() for run in runs]
        assert words.count("mine") == 1
        assert sum("holds another request" in word for word in words) == 2
        for run in runs:
            run.stdin.close()
        assert [run.wait(120) for run in runs] == [0, 0, 0]
    finally:
        for run in runs:
            run.kill()
            run.wait()
            run.stdout.close()


def test_a_folder_that_another_took_just_after_is_refused(tmp_path, monkeypatch):
    """Both were alone in it, one after the other: who wrote last has it."""

    class Late:
        @contextmanager
        def alone(self):
            yield True
            (tmp_path / "run" / "request.json").write_text(make_request(shards=3).to_json())

    monkeypatch.setattr("saplab.runs.store.claim", lambda root: Late())
    with pytest.raises(ValueError, match="holds another request"):
        Store.open(tmp_path / "run", make_request())
    assert Store.open(tmp_path / "run", make_request(shards=3)).request == make_request(shards=3)


def test_a_folder_without_cells_is_another_requests_until_its_process_has_ended(tmp_path):
    (gun := tmp_path / "gun").touch()
    other = racer(tmp_path / "run", 3, str(gun))
    try:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(ValueError, match="holds another request"):
            Store.open(tmp_path / "run", make_request())
        assert Store.open(tmp_path / "run", make_request(shards=3)).request == make_request(shards=3)
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    assert Store.open(tmp_path / "run", make_request()).request == make_request()


def test_stores_that_are_no_longer_used_keep_no_file_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for k in range(5):
        Store.open(tmp_path / f"{k}", make_request())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_other_peoples_folder_gets_no_lock(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files"):
        Store.open(tmp_path, make_request())
    assert os.listdir(tmp_path) == ["thesis.tex"]  # noqa: PTH208 - hidden files as well


# Cells that rot


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path / "run")


def test_damage_that_leaves_size_and_time_is_found_when_a_run_goes_on(store):
    cell = store.request.cells[1]
    rot(store.path(cell))
    again = Store.open(store.root, store.request)
    assert again.survey().missing == ()
    again.verify()
    assert again.survey().missing == (cell,)
    assert Store.read(store.root).survey().missing == (cell,)
    again.save(cell, make_result(cell))
    assert again.survey().missing == ()


def test_a_report_of_a_damaged_cell_says_so_and_ends_with_1(store, capsys):
    rot(store.path(store.request.cells[1]))
    code, out, _ = said(capsys, "report", store.root)
    assert code == 1
    assert "do not match its checksum" in out
    assert "unfinished: 5 of 6 cells are stored" in out
    assert len(summarise(Store.read(store.root)).damaged) == 1


def test_a_damaged_cell_is_seen_where_the_index_cannot_be_written(store):
    cell = store.request.cells[1]
    rot(store.path(cell))
    index = store.root / "index.txt"
    held = Store.read(store.root)
    held._trusted()
    content = index.read_text()
    index.unlink()
    index.mkdir()
    object.__setattr__(held, "_trusted", lambda: {words[0]: (int(words[1]), int(words[2])) for words in map(
        str.split, filter(None, content.splitlines()))})  # fmt: skip
    held.verify()
    assert held.survey().missing == (cell,)


# Requests that rot


@pytest.mark.parametrize("content", [b"", b'{"format":', b"\xff\xfe", b"[]", b"null"])
def test_a_damaged_request_is_rebuilt_by_the_same_request(store, content):
    (store.root / "request.json").write_bytes(content)
    with pytest.raises(DamagedRequestError, match=r"request\.json cannot be read"):
        Store.read(store.root)
    again = Store.open(store.root, store.request)
    assert again.note.endswith("it is written anew")
    assert (again.request, again.survey().missing) == (store.request, ())
    assert Store.read(store.root).request == store.request


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_any_flipped_bit_of_a_request_is_noticed(store, share):
    """Of a letter: the last digit of a number may be another without its being another number."""
    path = store.root / "request.json"
    whole = path.read_bytes()
    at = next(k for k in range(int(share * len(whole)), len(whole)) if chr(whole[k]).isalpha())
    rot(path, at=at)
    with pytest.raises(DamagedRequestError):
        Store.read(store.root)
    assert Store.open(store.root, store.request).survey().missing == ()
    assert path.read_bytes() == whole


def test_another_request_does_not_take_a_folder_whose_request_is_damaged(store):
    path = store.root / "request.json"
    path.write_text("{")
    curves = tuple(
        replace(curve, cells=tuple(replace(cell, seed=9) for cell in curve.cells)) for curve in store.request.curves
    )
    with pytest.raises(ValueError, match="the command that made this run can rebuild it"):
        Store.open(store.root, replace(store.request, curves=curves))
    assert path.read_text() == "{"


# Folders from elsewhere


def test_no_code_runs_that_lies_in_a_received_folder(store, monkeypatch):
    """Though its request names it, and the working folder is that folder."""
    path = store.root / "request.json"
    (store.root / "evil_mine.py").write_text("raise SystemExit('ran')")
    content = json.loads(path.read_text())
    content.update(homes={"evil": "evil_mine:Evil"}, sha256="")
    path.write_text(json.dumps(content))
    monkeypatch.chdir(store.root)
    for places in (sys.path, ["", *sys.path], [*sys.path, str(store.root)]):
        monkeypatch.setattr(sys, "path", list(places))
        with pytest.raises(ValueError, match="evil_mine:Evil cannot be imported: No module named"):
            Store.read(".")
    monkeypatch.chdir(store.root.parent)
    (store.root.parent / "evil_mine.py").write_text("class Evil:\n    mine = True")
    assert Store.read("run").request == store.request  # the working folder's own


# Notes that rot


@pytest.mark.parametrize("line", ["{}", "[]", "null", '{"cells": []}', '{"cells": ["to', "\xff", "[" * 5000])
def test_a_damaged_note_of_a_failure_is_named_and_hides_no_other(tmp_path, line):
    store = fill(tmp_path, cells=3)
    cell = store.request.cells[3]
    (tmp_path / "failures.jsonl").write_text(line + "\n")
    from saplab.runs.engines.base import Failed

    note_failure(tmp_path, Failed((cell,), "RuntimeError: no", "Traceback", 3))
    found = progress_of(store)
    assert [failure.reason for failure in found.failures] == ["RuntimeError: no"]
    (problem,) = found.problems
    assert problem.startswith(f"{tmp_path / 'failures.jsonl'}, line 1 cannot be read: ")


@pytest.mark.parametrize(
    "change", [{"pid": "x"}, {"pid": None}, {"pid": 10**21}, {"pid": -1}, {"host": 5}, {"started": "?"}, {"ended": []}]
)
def test_a_damaged_note_of_a_run_is_named(tmp_path, change):
    store = fill(tmp_path, cells=1)
    with running(tmp_path, "in process"):
        note = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**note, **change}))
    found = progress_of(store)
    assert (found.stored, found.state, found.engine, found.seconds_left) == (1, "stopped", "", None)
    (problem,) = found.problems
    assert problem.startswith(f"{tmp_path / 'run.json'} cannot be read: ")


def test_runs_shows_the_siblings_of_a_damaged_run(tmp_path, capsys):
    for name in ("a", "b", "c"):
        fill(tmp_path / name, cells=1)
    (tmp_path / "b" / "request.json").write_text("{")
    code, out, _ = said(capsys, "runs", tmp_path)
    assert code == 1
    assert [line.partition(":")[0] for line in out.splitlines() if line.startswith("/")] == [
        str(tmp_path / "a"),
        str(tmp_path / "c"),
    ]
    assert f"problem: {tmp_path / 'b' / 'request.json'} cannot be read: not a request" in out
    code, _, err = said(capsys, "runs", tmp_path / "b")
    assert (code, err.count("\n")) == (2, 1)


def test_leftovers_with_strange_numbers_are_no_error(tmp_path):
    host = re.sub(r"\W", "-", socket.gethostname())
    impossible = tmp_path / f".x.99999999999999999999@{host}.ab.tmp"
    for name in (impossible.name, f".x.²@{host}.ab.tmp", ".x.1.ab.tmp", "..tmp"):
        (tmp_path / name).touch()
    Store.open(tmp_path, make_request())
    assert not impossible.exists()

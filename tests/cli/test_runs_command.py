"""``saplab runs``: how far runs are, for people and as JSON."""

import json

import pytest
from synthetic import fill

from saplab.cli.errors import guarded
from saplab.cli.verbs import runs as verb
from saplab.runs.engines import Failed
from saplab.runs.record import note_failure


def said(capsys, *words):
    from saplab.cli import app

    code = guarded(lambda: app(["runs", *map(str, words)], prog_name="saplab", standalone_mode=False))
    return code, *capsys.readouterr()


def test_runs_shows_one_run(tmp_path, capsys):
    store = fill(tmp_path / "mine", cells=3)
    cell = store.request.cells[3]
    note_failure(store.root, Failed((cell,), "its process died (signal 9)", tries=3))
    (store.root / "cells" / "notes.txt").write_text("mine")
    code, out, err = said(capsys, store.root)
    assert (code, err) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == f"{store.root}: SAP-100 under attack"
    assert lines[1] == "saplab demo --out saplab-demo"
    assert lines[2] == "stopped, 3 of 6 cells (50.0 %), time left unknown"
    assert lines[3:5] == ["1/2  SAP-100", "0/2  SAP-100, identity backward"]
    assert lines[5] == "failed: SAP-100, examples 20..40, 3 tries: its process died (signal 9)"
    assert lines[6] == f"problem: {store.root / 'cells' / 'notes.txt'} does not belong to this run"


def test_runs_shows_all_runs_of_a_folder_as_json(tmp_path, capsys):
    fill(tmp_path / "b")
    fill(tmp_path / "a", cells=2)
    (tmp_path / "notes").mkdir()
    code, out, err = said(capsys, tmp_path, "--json")
    first, second = json.loads(out)["runs"]
    assert (code, first["root"], first["state"], first["stored"], first["total"]) == (
        0,
        f"{tmp_path / 'a'}",
        "stopped",
        2,
        6,
    )
    assert (second["root"], second["state"], second["seconds_left"]) == (f"{tmp_path / 'b'}", "finished", 0)
    assert first["curves"][0] == {"label": "dense", "stored": 2, "total": 2}
    assert "finished, 6 of 6 cells (100.0 %)" in err


def test_runs_refuses_a_folder_without_runs(tmp_path, capsys):
    code, out, err = said(capsys, tmp_path)
    assert (code, out) == (2, "")
    assert err == f"saplab: error: {tmp_path}: not a run folder, it has no request.json\n"


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times_are_written_for_people(seconds, text):
    assert verb.duration(seconds) == text


def test_many_lines_are_counted():
    assert list(verb._some(f"{k}" for k in range(23)))[-2:] == ["19", "  and 3 more"]

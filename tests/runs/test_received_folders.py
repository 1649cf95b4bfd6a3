"""Run folders as strangers pack them: links in them lead nowhere, and what is no file is named and never waited for."""

import json
import os
import shutil

import pytest
from synthetic import fill, make_request, make_result

from saplab.cli.errors import guarded
from saplab.evaluation.report import write_report
from saplab.evaluation.rows import summarise
from saplab.learning.checkpoint import RunFolder
from saplab.learning.progress import Record
from saplab.runs import Store
from saplab.runs.engines.base import Failed
from saplab.runs.record import note_failure, running
from saplab.system.folder import NotPlainError

NOTES = ("run.json", "failures.jsonl", "index.txt")
CELL = "cells/first"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a run with everything that a folder may hold."""
    store = fill(tmp_path_factory.mktemp("made") / "run", make_request(size=4))
    with running(store.root, "in process"):
        note_failure(store.root, Failed((store.request.cells[0],), "no", tries=3))
    return store


@pytest.fixture
def received(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "run")
    (tmp_path / "mine.txt").write_text("mine")
    return Store.read(tmp_path / "run")


def place(store, name):
    return store.path(store.request.cells[0]) if name == CELL else store.root / name


def swap(path, kind):
    """Put a pipe, a folder or a link in the place of a file; the link's end is outside, and is the file itself."""
    outside = path.parents[2 if path.parent.name == "cells" else 1] / "outside"
    path.rename(outside) if path.exists() else outside.touch()
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to(outside)}[kind](path)
    return outside


def said(capsys, *words):
    from saplab.cli import app

    code = guarded(lambda: app([*map(str, words)], prog_name="saplab", standalone_mode=False))
    return code, *capsys.readouterr()


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("name", [*NOTES, CELL])
def test_runs_names_what_is_no_file_beside_the_rest(received, name, kind, capsys):
    outside = swap(place(received, name), kind)
    before = outside.read_bytes()
    code, out, _ = said(capsys, "runs", received.root)
    assert (code, outside.read_bytes()) == (0, before)
    (problem,) = [line for line in out.splitlines() if line.startswith("  problem: ")]
    assert str(place(received, name)) in problem
    assert f"it is a {kind}, not a file" in problem
    assert f"{5 if name == CELL else 6} of 6 cells" in out


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("name", ["request.json", "cells"])
def test_runs_shows_the_siblings_of_a_folder_that_cannot_be_read(received, name, kind, capsys):
    if (name, kind) == ("cells", "folder"):
        return
    fill(received.root.parent / "a", cells=1)
    fill(received.root.parent / "z", cells=1)
    swap(place(received, name), kind)
    code, out, _ = said(capsys, "runs", received.root.parent)
    (problem,) = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert problem.startswith(f"problem: {received.root / name}: it is a {kind}, not a")
    assert (code, out.count("1 of 6 cells")) == (1, 2)
    code, out, err = said(capsys, "runs", received.root)
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("name", ["report.html", "accuracy.csv", "accuracy.svg"])
def test_a_report_is_not_written_through_a_link(received, name, tmp_path, capsys):
    (received.root / name).symlink_to(tmp_path / "mine.txt")
    code, _, err = said(capsys, "report", received.root)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{received.root / name}: it is a link, not a file" in err
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_a_report_counts_a_cell_that_is_no_file_as_damaged(received, kind):
    swap(place(received, CELL), kind)
    summary = summarise(received)
    assert summary.finished == 5
    (problem,) = summary.damaged
    assert problem.endswith((f"it is a {kind}, not a file", "are not followed"))


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_study_that_is_no_file_is_not_taken_for_an_evaluation(received, kind, capsys):
    swap(received.root / "study.json", kind)
    code, _, err = said(capsys, "report", received.root)
    assert (code, err.count("\n")) == (2, 1)
    assert f"study.json: it is a {kind}, not a file" in err


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("name", ["request.json", ".lock", "cells", CELL, *NOTES, "report.html"])
def test_no_run_goes_on_in_a_folder_with_links(received, name, kind):
    outside = swap(place(received, name), kind)
    before = outside.read_bytes() if outside.is_file() else sorted(outside.iterdir())
    with pytest.raises(NotPlainError, match=f"it is a {kind}, not a") as caught:
        Store.open(received.root, received.request)
    assert caught.value.filename == str(place(received, name))
    assert (outside.read_bytes() if outside.is_file() else sorted(outside.iterdir())) == before


def test_a_folder_that_is_a_link_itself_is_used_as_any(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    store = fill(tmp_path / "run")
    write_report(store, store.root)
    assert Store.open(tmp_path / "run", store.request).survey().missing == ()
    assert (tmp_path / "disk" / "report.html").is_file()


def test_an_empty_file_of_1970_is_no_stored_cell(received):
    """It has the size and time by which the index marks damaged cells."""
    cell = received.request.cells[0]
    received.path(cell).write_bytes(b"")
    os.utime(received.path(cell), ns=(0, 0))
    for _ in range(2):
        assert Store.read(received.root).survey().missing == (cell,)
    received.save(cell, make_result(cell))
    assert received.survey().missing == ()


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "history.jsonl", "model.json"])
def test_no_training_goes_on_in_a_folder_with_links(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(NotPlainError, match="it is a link, not a file"):
        RunFolder(tmp_path / "run", {}, Record).open()


def test_tables_behind_links_are_not_shown(received, tmp_path, capsys):
    fill(tmp_path / "table")
    (received.root / "table1").symlink_to(tmp_path / "table")
    code, out, _ = said(capsys, "runs", received.root)
    assert (code, out.count("6 of 6 cells")) == (1, 1)
    assert "table1: it is a link, not a folder" in out
    code, out, _ = said(capsys, "runs", received.root, "--json")
    assert len(json.loads(out)["problems"]) == 1


def test_a_small_request_does_not_ask_for_millions_of_cells(received, capsys):
    path = received.root / "request.json"
    content = json.loads(path.read_text())
    content["curves"][0]["parts"][0]["bounds"] = list(range(5000))
    content["curves"][0]["seeds"] = list(range(5000))
    path.write_text(json.dumps({**content, "sha256": ""}))
    code, _, err = said(capsys, "runs", received.root)
    assert (code, err.count("\n")) == (2, 1)
    assert "a run must have at most 250,000 cells, got 25,0" in err

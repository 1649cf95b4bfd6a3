"""Folders of earlier versions: put aside and computed again, whenever that is killed; other files are kept."""

import json
from pathlib import Path

import pytest
from synthetic import fill, make_request, make_result

from saplab.runs import ImageCell, Store
from saplab.runs.earlier import prepare

FILES = {
    "figures": ("request.json", "cells/0123456789abcdef.safetensors", "index.txt", "run.json", "failures.jsonl",
                "study.json", "report.html", "results.md", "accuracy.csv", "accuracy.parquet", "figures/fig1a.svg"),
    "games": ("games/0123456789abcdef.json", "run.json"),
    "table": ("table1.json", "games/0123456789abcdef.json", "report.html", "table1.csv", "figures/points.svg"),
}  # fmt: skip


def make_earlier(root, kind):
    for name in FILES[kind]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": 4, "numerics": 5}) if name == "request.json" else name)
    (root / "agent.safetensors").write_text("somebody's own")


def names(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def assert_put_aside(root, kind, store):
    aside = root / "earlier-version"
    assert store.note == f"results of an earlier version of saplab are now in {aside}; computing again"
    assert names(aside) == set(FILES[kind])
    assert names(root) - {f"earlier-version/{name}" for name in FILES[kind]} == {
        ".lock", "agent.safetensors", "request.json"
    }  # fmt: skip
    assert store.survey().missing == make_request().cells


@pytest.mark.parametrize("kind", FILES)
def test_an_earlier_run_is_put_aside_and_computed_again(tmp_path, kind):
    make_earlier(tmp_path, kind)
    store = Store.open(tmp_path, make_request())
    assert_put_aside(tmp_path, kind, store)
    for cell in store.request.cells:
        store.save(cell, make_result(cell))
    again = Store.open(tmp_path, make_request())
    assert (again.note, again.survey().missing, again.survey().foreign) == ("", (), ())


@pytest.mark.parametrize("kind", FILES)
def test_a_move_that_is_killed_goes_on(tmp_path, kind, monkeypatch):
    """Before each of the moves, and before the new request is written."""
    rename = Path.rename
    for moves in range(20):
        root = tmp_path / f"{moves}"
        make_earlier(root, kind)
        left = iter(range(moves))

        def killed(path, target, left=left):
            next(left)
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            patch.setattr(
                "saplab.system.folder.write_atomically",
                lambda path, content, left=left: (next(left), path.write_bytes(content)),
            )
            try:
                Store.open(root, make_request())
            except StopIteration:
                pass
            else:
                break
        assert_put_aside(root, kind, Store.open(root, make_request()))
    assert moves > len({name.partition("/")[0] for name in FILES[kind]})


def test_a_second_earlier_run_finds_a_place_of_its_own(tmp_path):
    for _ in range(2):
        make_earlier(tmp_path, "figures")
        store = Store.open(tmp_path, make_request())
        (tmp_path / "request.json").write_text(json.dumps({"format": 4}))
    assert store.note.endswith("earlier-version-2; computing again")
    assert names(tmp_path / "earlier-version") == names(tmp_path / "earlier-version-2") == set(FILES["figures"])


def test_results_of_earlier_numbers_are_put_aside(tmp_path, monkeypatch):
    store = fill(tmp_path / "run", cells=2)
    monkeypatch.setattr(ImageCell, "numerics", ImageCell.numerics + 1)
    with pytest.raises(ValueError, match=r"request\.json cannot be read: numerics"):
        Store.read(store.root)
    again = Store.open(store.root, make_request())
    assert len(again.survey().missing) == 6
    assert len(list((store.root / "earlier-version" / "cells").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("request.json", '{"url": "http://"}'), ("request.json", '{"format": 99}'), ("request.json", "{"),
     ("games/chess.json", "{}"), ("games.txt", "")],
)  # fmt: skip
def test_what_is_not_saplabs_is_left_alone(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read|holds other files"):
        Store.open(tmp_path, make_request())
    assert names(tmp_path) == {name}


def test_an_empty_folder_needs_no_word(tmp_path):
    assert prepare(tmp_path) == prepare(tmp_path / "new") == ""

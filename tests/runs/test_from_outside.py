"""Classes and engines of the user's own: computed by each engine, and read back from the folder by another process."""

import os
import subprocess
import sys

import pytest
from drivers import assert_same, one_thread
from outside import DEFENCE, import_outside, run_outside

from saplab.runs.engines import InProcess, Options, Workers, make_engine
from saplab.runs.record import failures
from saplab.system.registry import import_object, no_imports_from

__all__ = ["one_thread"]  # fixtures

READER = """
import sys
from saplab.runs import Store
try:
    store = Store.read(sys.argv[1])
    print(len([store.load(cell) for cell in store.request.cells]), store.request.cells[0].defender.spec)
except ValueError as error:
    print(error)
"""


def read_elsewhere(root, *folders):
    """Read a run in a process that has imported none of the classes, and return what it says."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-c", READER, str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def test_classes_from_outside_compute_with_every_engine_and_are_read_back(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    import_outside(outside, monkeypatch)
    engines = [InProcess(), make_engine("outside-backwards", Options()), Workers(1, 1)]
    here, backwards, elsewhere = (run_outside(tmp_path / f"{k}", engine) for k, engine in enumerate(engines))
    assert_same(backwards, here)
    assert_same(elsewhere, here)
    assert str(make_engine("outside_engine:backwards", Options())) == "in process, the last group first"
    assert read_elsewhere(here.root, outside) == "3 outside-noise:0.1"
    request = here.root / "request.json"
    assert read_elsewhere(here.root) == (
        f"{request} cannot be read: outside_defence:Noise cannot be imported: No module named 'outside_defence'"
    )
    (outside / "outside_defence.py").write_text(DEFENCE.replace("h +", "h -"))
    assert read_elsewhere(here.root, outside) == (
        f"{request} cannot be read: the source of `defense` outside-noise has changed since this was stored"
    )


def test_classes_that_workers_cannot_import_are_named(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    import_outside(outside, monkeypatch)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(outside)])
    store = run_outside(tmp_path, Workers(1, 1))
    assert {note.reason for note in failures(store.root)[0]} == {
        "ModuleNotFoundError: No module named 'outside_defence'"
    }
    assert len(store.survey().missing) == 3


@pytest.mark.parametrize("module", ["got.evil", "got.inner.evil", "others.run.evil", "got:evil"])
def test_a_folder_of_results_is_no_package_of_the_working_folder(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    for place in ("got", "got/inner", "others/run"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "evil.py").write_text("raise SystemExit('ran')")
    for place in ("got", "others/run"):
        (tmp_path / place / "request.json").write_text("{}")
    with no_imports_from(tmp_path / "got"), pytest.raises(ValueError, match="cannot be imported"):
        import_object(f"{module}:Class" if ":" not in module else module)
    assert not [name for name in sys.modules if name.endswith("evil")]

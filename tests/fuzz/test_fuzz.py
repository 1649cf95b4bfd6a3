"""The short form of the fuzz: each generator some times, and the harness itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuzz import harness
from fuzz.cases import CANARY, GENERATORS, Case, call
from fuzz.harness import load_generators

TESTS = Path(__file__).parents[1]
EACH = 3  # cases of each generator


def run_fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    arguments = [sys.executable, "-m", "fuzz", *words]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=600)


def test_a_few_inputs_of_each_generator_are_refused_or_right():
    load_generators()
    found = run_fuzz("--count", str(EACH * len(GENERATORS)))
    assert found.returncode == 0, found.stdout[-10_000:] + found.stderr[-2_000:]
    assert f"{EACH * len(GENERATORS)} inputs, 0 faults" in found.stdout


def _numbers_are_wrong() -> None:
    raise AssertionError("2 images, got 3")


def _bug() -> None:
    raise KeyError("nobody caught this")


def _refuse() -> None:
    raise ValueError("in one line")


def _canary() -> None:
    Path(CANARY).touch()


def _leave_the_folder() -> None:
    Path("../elsewhere").touch()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads, which the child never uses
@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        (call("right", lambda: None), []),
        (call("refused", _refuse), []),
        (call("must not be refused", _refuse, right={0}), ["wrong exit code 2"]),
        (call("wrong", _numbers_are_wrong), ["wrong number"]),
        (call("bug", _bug), ["traceback"]),
        (call("slow", lambda: time.sleep(60)), ["hang"]),
        (call("killed", lambda: os.kill(os.getpid(), 9)), ["killed by signal 9"]),
        (call("canary", _canary), ["code run"]),
        (call("outside", _leave_the_folder), ["file outside: ['elsewhere']"]),
        (Case("silent", lambda: sys.exit(2)), ["not one line"]),
    ],
    ids=lambda value: value.text if isinstance(value, Case) else "",
)
def test_faults_are_noticed(case: Case, kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SECONDS", 2.0)
    monkeypatch.setattr(harness, "PATIENCE", 1)
    monkeypatch.setitem(GENERATORS, "one", lambda draw, folder: case)
    assert [fault.kind for fault in harness.run_one("one", 0, tmp_path)] == kinds

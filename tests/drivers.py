"""What tests of engines share: a run's bits in one undisturbed process, and a driver in a process of its own."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stubborn import make_run

from saplab.runs import Store, run
from saplab.runs.results import ImageResult

GROUPS = 16  # of the stubborn run
SOON = 10  # seconds: two on a machine of its own, which tests do not have


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """The runs of one undisturbed process and thread, by defence."""
    found = {}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for defense in ("sap:100", ""):
        folder = tmp_path_factory.mktemp("reference")
        request, inputs = make_run(folder / "trap", defense)
        found[defense] = Store.open(folder / "run", request)
        assert run(found[defense], inputs) == ()
    torch.set_num_threads(before)
    return found


def assert_same_bits(store, references):
    assert_same(store, references[store.request.cells[0].defender.spec])


def assert_same(store, reference):
    assert store.request.cells == reference.request.cells
    for cell in reference.request.cells:
        mine, other = store.load(cell), reference.load(cell)
        for name in ImageResult.layout:
            assert getattr(mine, name).tobytes() == getattr(other, name).tobytes(), name
        assert mine.made["threads"] == 1


def is_there(pid):
    """Return whether a process is there and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def drive(folder, pause, *words):
    """Start a driver as a process of its own group, and wait until its first cell is stored."""
    command = [sys.executable, str(Path(__file__).parent / "stubborn.py"), str(folder), str(pause), *map(str, words)]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not any((folder / "run" / "cells").glob("*.safetensors")):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return driver

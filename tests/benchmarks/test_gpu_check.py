"""The script that tests and times everything on a GPU, as far as it goes without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.sh"


def run(*args: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), "--out", str(out), *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_the_check_refuses_in_one_line(tmp_path: Path) -> None:
    done = run(out=tmp_path / "found")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("PyTorch sees no GPU here; --rehearse tries the script without one")
    assert not (tmp_path / "found" / "gpu_check.json").exists()


def test_an_unknown_option_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = run("--rounds", "3", out=tmp_path / "found")
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_the_rehearsal_goes_through_every_stage(tmp_path: Path) -> None:
    done = run("--rehearse", out=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:]
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [stage["status"] for stage in found["stages"].values()] == [0, 0, 0]

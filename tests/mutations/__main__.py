"""Try faults one by one in a copy of the repository, and say which of them the tests notice."""

import argparse
import compileall
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
sys.dont_write_bytecode = True  # Python tells files apart by size and second

# what the forked processes share; nothing of saplab's
import altair  # noqa: F401
import hypothesis  # noqa: F401
import jinja2  # noqa: F401
import msgspec  # noqa: F401
import numba  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pytest
import safetensors.torch  # noqa: F401
import scipy.optimize
import scipy.stats  # noqa: F401
import torch._dynamo  # noqa: F401
import typer  # noqa: F401

from mutations import REPOSITORY, Fault, rooms

_OUTCOMES = {0: "SURVIVED", 1: "caught", -signal.SIGKILL: "caught by the time limit"}


def main() -> int:
    """Run the tests named by each fault, first without any, then with one fault at a time."""
    options = argparse.ArgumentParser(prog="python -m mutations", description=main.__doc__)
    options.add_argument("--room", help=f"one of {', '.join(rooms())}")
    options.add_argument("--only", action="append", help="faults whose name contains this; may be given several times")
    options.add_argument("--limit", type=float, default=600.0, help="seconds for the tests of one fault")
    options.add_argument("--unchecked", action="store_true", help="do not run the tests without a fault first")
    asked = options.parse_args()
    chosen = [(room, fault) for room, faults in rooms().items() if asked.room in (None, room) for fault in faults]
    chosen = [(room, fault) for room, fault in chosen if any(text in fault.name for text in asked.only or ("",))]
    where = _copy(Path(tempfile.mkdtemp(prefix="saplab-mutations-")))
    ids = list(dict.fromkeys(test for _, fault in chosen for test in fault.ids))
    if not asked.unchecked and (code := _tested(where, ids, 3600.0)) != 0:
        print(f"the tests do not pass without a fault (exit {code}); see {where}/output.txt")
        return 2
    counts: dict[str, int] = {}
    for room, fault in chosen:
        begin, outcome = time.monotonic(), _outcome(where, fault, asked.limit)
        counts[outcome] = counts.get(outcome, 0) + 1
        print(f"{outcome}: {room}, {fault.name} ({time.monotonic() - begin:.0f} s){_by(where)}", flush=True)
    noticed = sum(count for outcome, count in counts.items() if outcome.startswith("caught"))
    print(f"{len(chosen)} faults, {noticed} noticed ({100 * noticed / max(len(chosen), 1):.1f} %): {counts}")
    shutil.rmtree(where)
    return 0 if noticed == len(chosen) else 1


def _copy(where: Path) -> Path:
    """Copy the files that belong to the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (source := REPOSITORY / name).is_file():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, where / name)
    compileall.compile_dir(where / "src", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    for kernel in (REPOSITORY / "src").rglob("*.nb[ci]"):  # compiled; which source they are of stands in them
        shutil.copy2(kernel, where / kernel.relative_to(REPOSITORY))
    return where


def _outcome(where: Path, fault: Fault, limit: float) -> str:
    path = where / "src" / "saplab" / fault.file
    whole = path.read_text()
    kernels = {kernel: kernel.read_bytes() for kernel in where.rglob("*.nb[ci]")} if _is_of_kernels(fault) else {}
    path.write_text(fault.applied(whole))
    try:
        code = _tested(where, fault.ids, limit)
    finally:
        path.write_text(whole)
        for kernel, machine_code in kernels.items():
            kernel.write_bytes(machine_code)
    return _OUTCOMES.get(code, f"ERROR {code}")


def _by(where: Path) -> str:
    """Return which test failed, and how, in a line."""
    lines = (where / "output.txt").read_text(errors="replace").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return f"\n    {failed[0]}" if failed else ""


def _is_of_kernels(fault: Fault) -> bool:
    return fault.file.startswith(("rng/", "pruning/"))


def _tested(where: Path, ids: Sequence[str], limit: float) -> int:
    """Run tests in a forked process with the copy's sources, and return pytest's exit code; what it says is kept."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(where)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        source = str(where / "src")
        sys.path.insert(0, source)
        os.environ["PYTHONPATH"] = source
        late = "ignore::pytest.PytestAssertRewriteWarning"  # of plugins that this process has imported
        arguments = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--no-header", "-W", late, *ids]
        os._exit(pytest.main(arguments))
    return _waited(child, limit)


def _waited(child: int, limit: float) -> int:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.2)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())

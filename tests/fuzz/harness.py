"""Run generated inputs, each in a forked process of its own, and say what went wrong."""

import importlib
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fuzz.cases import CANARY, GENERATORS, Case

SECONDS = 30.0  # of computing, after which a process hangs
PATIENCE = 10  # times as long by the clock, on a machine with other work
MEMORY = 12 << 30  # bytes of addresses; PyTorch's libraries alone take some


@dataclass(frozen=True)
class Fault:
    """One input that saplab got wrong.

    Attributes:
        kind: ``traceback``, ``hang``, ``code run``, ``file outside``, ``wrong number``, ``wrong exit code``, ``not one
            line`` or ``killed``.
    """

    kind: str
    name: str
    seed: int
    text: str
    told: str


def load_generators() -> None:
    """Import every file of generators."""
    for path in sorted(Path(__file__).parent.glob("of_*.py")):
        importlib.import_module(f"fuzz.{path.stem}")


def run_many(count: int, seed: int, folder: Path, only: str = "") -> Iterator[tuple[str, list[Fault]]]:
    """Yield name and faults of `count` cases, generators in turn; `only` selects those whose name contains it."""
    names = [name for name in GENERATORS if only in name]
    for number in range(count):
        name = names[number % len(names)]
        yield name, list(run_one(name, seed + number, folder / f"{number:05d}"))


def run_one(name: str, seed: int, folder: Path) -> Iterator[Fault]:
    """Generate one input in a new folder, run it, and yield its faults."""
    inside = folder / "inside"
    inside.mkdir(parents=True)
    case = GENERATORS[name](random.Random(f"{name} {seed}"), inside)
    code, told = _run(case, inside, folder)
    wrong = [*_wrong(case, code, told), *_outside(folder, inside)]
    yield from (Fault(kind, name, seed, case.text, told[-2000:]) for kind in wrong)


def _wrong(case: Case, code: int | None, told: str) -> Iterator[str]:
    if code is None:
        yield "hang"
    elif code < 0:
        yield f"killed by signal {-code}"
    elif "AssertionError" in told:
        yield "wrong number"
    elif "Traceback" in told:
        yield "traceback"
    elif code not in case.right:
        yield f"wrong exit code {code}"
    if code == 2 and sum(line.startswith("saplab: ") for line in told.splitlines()) != 1:
        yield "not one line"


def _outside(folder: Path, inside: Path) -> Iterator[str]:
    if any(path.name == CANARY for path in folder.rglob(CANARY)):
        yield "code run"
    known = {inside, folder / "stdout", folder / "stderr", folder / "home"}
    if others := set(folder.iterdir()) - known:
        yield f"file outside: {sorted(path.name for path in others)}"


def _run(case: Case, inside: Path, folder: Path) -> tuple[int | None, str]:
    """Return the exit code of the case's process, None for one that hangs, and what it wrote to stderr."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(case, inside, folder)
    end = time.monotonic() + PATIENCE * SECONDS
    while time.monotonic() < end and _spent(child) < SECONDS:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), (folder / "stderr").read_text(errors="replace")
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, (folder / "stderr").read_text(errors="replace")


def _spent(process: int) -> float:
    """Return the seconds that a process has computed; 0 where /proc does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _become(case: Case, inside: Path, folder: Path) -> None:
    """Run the case as this forked process, and end it."""
    code = 70
    try:
        os.setpgid(0, 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 - not pytest's
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.chdir(inside)
        os.environ |= {"HOME": str(folder / "home"), "TMPDIR": str(inside)}
        case.run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

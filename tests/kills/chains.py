"""A command that is killed again and again until it finishes, and the bits that it leaves."""

import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

_LOOK_SECONDS = 0.25
PROVEN = ("--limit", "8", "--batch-size", "2", "--threads", "1")
SMALL = ("--samples", "2", "--passes", "2", "--attack", "fgsm", "--lambda", "1,4", "--defense", "sap:100")
EVALUATE = ("evaluate", *PROVEN, *SMALL)
STUDY = """
[[figure]]
name = "mine"
strengths = [0, 4]
[[figure.line]]
label = "dense"
[[figure.line]]
label = "SAP-100"
defense = "sap:100"
"""


@dataclass(frozen=True)
class Command:
    """Words of the command line without ``--out``, and what of its folder must be the same: patterns of files.

    An agent's training is not `exact` (docs/atari.md), as games begin anew: it must end whole, with each step recorded.
    What `spawns` processes of its own starts from a new interpreter each time.
    """

    words: tuple[str, ...]
    results: tuple[str, ...] = ("cells/*.safetensors",)
    exact: bool = True
    spawns: bool = False


COMMANDS = {
    "evaluate": Command(EVALUATE),
    "evaluate-workers": Command((*EVALUATE, "--workers", "2"), spawns=True),
    "evaluate-ray": Command((*EVALUATE, "--workers", "2", "--engine", "ray"), spawns=True),
    "reproduce": Command(("reproduce", "study.toml", "--preset", "smoke", "--limit", "8", "--threads", "1")),
    "train": Command(
        ("train", "dense", "--preset", "smoke", "--data", "train.npz", "--test", "test.npz", "--threads", "1"),
        ("model.safetensors", "history.jsonl"),
    ),
    "train-agent": Command(
        ("train-agent", "Assault", "--preset", "smoke", "--steps", "1024", "--episodes", "2", "--threads", "1"),
        ("model.safetensors", "history.jsonl"),
        exact=False,
    ),
    "play": Command(
        ("play", "Assault", "--agent", "agent.safetensors", "--defense", "sap:100", "--lambda", "0,8", "--episodes",
         "4", "--seeds", "1", "--samples", "1", "--passes", "1", "--max-frames", "160", "--threads", "1")
    ),
}  # fmt: skip


def prepare(folder: Path) -> None:
    """Write what the commands read: a study, images to train on, an agent."""
    from safetensors.torch import save_file

    from saplab.models.qnetwork import new_network

    (folder / "study.toml").write_text(STUDY)
    rng = np.random.default_rng(0)
    for name, count in (("train", 640), ("test", 32)):
        images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=np.arange(count) % 10)
    agent = {name: tensor.contiguous() for name, tensor in new_network(7, 0).state_dict().items()}
    save_file(agent, folder / "agent.safetensors")


def bits(folder: Path, command: Command) -> dict[str, str]:
    """Return a hash of each result of a run: the numbers of tensors; of a history, all but times and shares of it."""
    return {
        str(path.relative_to(folder)): _hash(path, command.exact)
        for pattern in command.results
        for path in sorted(folder.glob(pattern))
    }


def _hash(path: Path, exact: bool) -> str:
    total = hashlib.sha256()
    if path.suffix == ".jsonl":
        for line in path.read_text().splitlines():
            record = json.loads(line)
            kept = {name: value for name, value in record.items() if "second" not in name and name != "busy"}
            kept = kept if exact else {"step": record["step"]}
            total.update(json.dumps(kept, sort_keys=True).encode())
        return total.hexdigest()
    with safe_open(path, framework="np") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            total.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            total.update(tensor.tobytes() if exact else str(np.isfinite(tensor).all()).encode())
    return total.hexdigest()


forking = False  # whether commands begin as copies of this process, which has imported saplab


class Fork:
    """A copy of this process, in a session of its own, that runs a command; with the methods of `Popen`."""

    def __init__(self, line: Sequence[str], where: Path, log: int) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.chdir(where)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 - not those of who started this
            sys.argv = list(line)
            code = _code_of_main()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self._code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if done else None
        return self._code

    def wait(self) -> int:
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


def warm_up() -> None:
    """Import what commands need, and load the kernels, so that copies of this process begin with their work."""
    import saplab
    import saplab.cli.verbs.evaluate
    import saplab.evaluation.report

    images, labels = (tensor[:2] for tensor in saplab.load_cifar10("sample"))
    sap = saplab.defend(saplab.load_model("preact-resnet20-dense"), saplab.SAP(100.0))
    saplab.evaluate(sap, images, labels, attacks="fgsm", eps=1 / 255, passes=2, samples=1, progress=False)


def _code_of_main() -> int:
    from saplab.cli import main

    try:
        main()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start(command: Command, out: str, where: Path) -> "subprocess.Popen[bytes] | Fork":
    """Start a command in a session of its own; what it says goes to a file beside its folder."""
    words = [*command.words, "--out", out]
    with (where / f"{out}.log").open("ab") as log:  # the process has its own handle
        if forking and not command.spawns:
            return Fork(["saplab", *words], where, log.fileno())
        line = [sys.executable, "-m", "saplab", *words]
        return subprocess.Popen(line, cwd=where, stdout=log, stderr=log, start_new_session=True)


def spent(session: int) -> float:
    """Return the seconds that all processes of a session have computed so far; by the clock where /proc is missing.

    A loaded machine runs a command ten times as long one time as another, but it computes as much.
    """
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    total = 0
    for path in stats:
        with suppress(OSError):  # it has just ended
            fields = path.read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) if int(fields[3]) == session else 0
    return total / os.sysconf("SC_CLK_TCK") if stats else time.monotonic()


def undisturbed(command: Command, where: Path) -> tuple[dict[str, str], float]:
    """Run a command to its end, and return its bits and how long it computed."""
    process = start(command, "whole", where)
    begin = seconds = spent(process.pid)
    while (code := process.poll()) is None:
        seconds = spent(process.pid)
        time.sleep(_LOOK_SECONDS)
    if code != 0:
        raise RuntimeError(
            f"{shlex.join(command.words)} ended with {code}: {(where / 'whole.log').read_text()[-2000:]}"
        )
    found = bits(where / "whole", command)
    if not found:
        raise RuntimeError(f"{shlex.join(command.words)} left no results in {where / 'whole'}")
    return found, seconds - begin


def killed(command: Command, out: str, where: Path, seconds: float, kills: int, rng: random.Random) -> int:
    """Kill a command up to `kills` times, then let it end; return the kills.

    Each comes at a random moment within the `seconds` that an undisturbed run computes. It is the driver that is
    killed, by SIGKILL; a run that ends before its kill is over.
    """
    done = 0
    while done < kills:
        process = start(command, out, where)
        until = spent(process.pid) + rng.uniform(0.0, seconds)
        while (code := process.poll()) is None and spent(process.pid) < until:
            time.sleep(_LOOK_SECONDS)
        if code is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            continue
        if code != 0:
            raise RuntimeError(f"it ended with {code}: {(where / f'{out}.log').read_text()[-2000:]}")
        return done
    code = start(command, out, where).wait()
    if code != 0:
        raise RuntimeError(f"it ended with {code}: {(where / f'{out}.log').read_text()[-2000:]}")
    return done

"""The machine, its load, and the versions that a measurement was made with."""

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from saplab.system.machine import processor, usable_cores, versions

_PACKAGES: Final = (
    "saplab", "torch", "numba", "numpy", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "pyautoattack",
)  # fmt: skip


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Describe the machine, its load now, and the installed versions."""
    return {
        "processor": processor(),
        **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
        "cores": usable_cores(),
        "threads": threads,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "load": load_average(),
        "versions": {name: text for name, text in versions(_PACKAGES).items() if text != "missing"},
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def load_average() -> float | None:
    """Return the load average of the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _commit() -> str:
    """Return the commit of the source, ``-dirty`` where files differ from it; "" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--match", "v[0-9]*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        return ""


def print_machine(info: Mapping[str, Any]) -> None:
    """Print what `machine` found, in two lines."""
    found = info["versions"]
    where = " with ".join(filter(None, (info["processor"], info.get("gpu"))))
    print(f"{where}, {info['cores']} cores, {info['threads']} threads, {info['vectors']}")
    print(f"Python {found['python']}, torch {found['torch']}, numba {found['numba']}; load before: {info['load']}\n")


def save(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write the result as JSON, where a path was given."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")

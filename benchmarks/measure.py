"""The words and numbers around what the scripts of this folder measure; timing itself is `suite.measure`."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from suite.measure import Times, Work

from saplab.system.machine import processor, usable_cores, versions

__all__ = ["Times", "Work", "machine", "print_machine", "save"]


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine and its load now."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "threads": threads,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": sys.platform,
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def print_machine(info: Mapping[str, Any]) -> None:
    """Print what `machine` found, in two lines."""
    found = info["versions"]
    print(f"{info['processor']}, {info['cores']} cores, {info['threads']} threads, {info['vectors']}")
    print(f"Python {found['python']}, torch {found['torch']}, numba {found['numba']}; load before: {info['load']}\n")


def save(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write the result as JSON, where a path was given."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")

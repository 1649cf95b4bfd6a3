"""What a run was computed with: versions, processor, threads. For the record; it decides no number."""

import math
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("saplab", "torch", "numpy", "numba", "scipy", "safetensors")
_CGROUPS = Path("/sys/fs/cgroup")


def made(seconds: float) -> Mapping[str, Any]:
    """Describe how a cell was made, for `CellResult.made`.

    Args:
        seconds: wall-clock time that the cell took.
    """
    import torch

    return {
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "processor": processor(),
        "seconds": round(seconds, 3),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Give the installed versions of Python and `packages`, without importing them; ``missing`` if not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def processor() -> str:
    """Give the processor's name as the operating system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def usable_cores() -> int:
    """Count the cores that this process may use: its affinity, and a container's quota where there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _cgroup_quota())))


def usable_memory() -> int | None:
    """Give the bytes of memory that this process may use, a container's limit included; None where unknown."""
    if not hasattr(os, "sysconf"):
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _text(_CGROUPS / "memory.max") or _text(_CGROUPS / "memory" / "memory.limit_in_bytes")
    return min(total, int(limit)) if limit.isdigit() else total


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _cgroup_quota() -> float:
    """Read the cores that control groups (version 2, then 1) allow; infinite where nothing is said."""
    first = _CGROUPS / "cpu"
    text = _text(_CGROUPS / "cpu.max") or f"{_text(first / 'cpu.cfs_quota_us')} {_text(first / 'cpu.cfs_period_us')}"
    numbers = [int(word) for word in text.split() if word.isdigit()]
    return numbers[0] / numbers[1] if len(numbers) == 2 and numbers[1] > 0 else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

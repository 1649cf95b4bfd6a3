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
    return max(1, min(allowed, math.ceil(_cgroup_quota())))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Read the cores that control groups (version 2, then 1) allow; infinite where nothing is said."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = (_text(root / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    numbers = quota.isdigit() and period.isdigit() and int(period) > 0
    return int(quota) / int(period) if numbers else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

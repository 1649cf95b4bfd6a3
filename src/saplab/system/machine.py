"""The machine and the installed versions, for the record: they decide no number."""

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


def made(seconds: float, busy: float) -> Mapping[str, Any]:
    """Describe how something was computed that took so many seconds, by the clock and of processors together."""
    import torch

    return {
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "processor": processor(),
        "instructions": instructions(),
        "seconds": round(seconds, 3),
        "processor seconds": round(busy, 3),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of `packages`, without importing these; ``missing`` if not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def instructions() -> str:
    """Return the vector instructions that PyTorch finds here, such as ``AVX512, bfloat16, AMX``."""
    import torch

    asked = {"bfloat16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
    more = (word for word, question in asked.items() if getattr(torch.cpu, question, lambda: False)())
    return ", ".join((torch.backends.cpu.get_cpu_capability(), *more))


def usable_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _cgroup_quota())))


def usable_memory() -> int | None:
    """Return the bytes of memory that this process may use, by its container's limit too; None where unknown."""
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
    """Return the cores that control groups (version 2, then 1) allow; infinity where they set no limit."""
    first = _CGROUPS / "cpu"
    text = _text(_CGROUPS / "cpu.max") or f"{_text(first / 'cpu.cfs_quota_us')} {_text(first / 'cpu.cfs_period_us')}"
    numbers = [int(word) for word in text.split() if word.isdigit()]
    return numbers[0] / numbers[1] if len(numbers) == 2 and numbers[1] > 0 else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

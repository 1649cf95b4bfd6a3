"""Memory that the C library keeps."""

import os
import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_freed_memory_is_kept() -> None:
    """In a process of its own: 100 MB that come and go cost their pages once, not each time."""
    script = """
import resource
import numpy as np
from saplab.system.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(100_000_000, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, done = faults(), keep_freed_memory()
faults()
print(done, faults() < before / 10)
"""
    others = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    assert _said(script, others) == ["True", "True"]
    assert _said(script, {**others, "MALLOC_ARENA_MAX": "2"}) == ["False", "False"], "the user has chosen"


def _said(script: str, environment: dict[str, str]) -> list[str]:
    return subprocess.check_output([sys.executable, "-c", script], env=environment, text=True).split()

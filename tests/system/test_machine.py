"""What this process may use of its machine."""

import os

from saplab.system import machine
from saplab.system.machine import usable_cores, usable_memory


def test_usable_cores_respect_a_containers_quota(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    assert (usable_cores(), usable_memory()) == (1, 2**20)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert 1 <= usable_cores() <= os.cpu_count()
    assert usable_memory() > 2**20

"""Kernels where nothing can be written, and caches that are older than what they call or damaged."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from saplab.rng import compiled
from saplab.rng.compiled import KernelCache, UncachedKernelsWarning, scalar_kernel

PACKAGE = Path(compiled.__file__).parents[1]
PREDICT = """
import saplab
sap = saplab.defend(saplab.load_model("preact-resnet20-dense"), saplab.SAP(100))
print(saplab.predict(sap, saplab.load_cifar10("sample")[0][:2], passes=1).tolist())
"""


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(compiled, "_told", [])


def double(x):
    return 2 * x


def test_kernels_compile_without_a_folder_for_their_cache_and_say_so_once(monkeypatch, told):
    monkeypatch.setattr(compiled.KernelCache._impl_class, "_locator_classes", [])
    with pytest.warns(UncachedKernelsWarning, match="NUMBA_CACHE_DIR=FOLDER") as seen:
        first, second = scalar_kernel(double), scalar_kernel(double)
    assert (first(np.int64(3)), second(np.int64(4)), len(seen)) == (6, 8, 1)


def test_a_worker_says_nothing_of_its_cache(monkeypatch, told):
    monkeypatch.setattr(compiled.KernelCache._impl_class, "_locator_classes", [])
    monkeypatch.setattr(compiled, "parent_process", lambda: object())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scalar_kernel(double)(np.int64(3)) == 6


def in_folder(monkeypatch, folder):
    """Let kernels be kept in a folder."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(folder))


def test_a_full_disk_costs_the_cache_alone(monkeypatch, tmp_path, told):
    in_folder(monkeypatch, tmp_path)

    def full(self, name, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    kernel = scalar_kernel(double)
    with pytest.warns(UncachedKernelsWarning, match="No space left on device"):
        assert kernel(np.int64(3)) == 6
    assert kernel(np.float64(3)) == 6  # another signature, said no more


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_damaged_cache_is_written_anew(monkeypatch, tmp_path, told, ending):
    in_folder(monkeypatch, tmp_path)
    assert scalar_kernel(double)(np.int64(3)) == 6
    (path,) = tmp_path.rglob(f"*{ending}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    kernel = scalar_kernel(double)
    assert (kernel(np.int64(3)), kernel.stats.cache_hits) == (6, {})
    again = scalar_kernel(double)
    assert again(np.int64(3)) == 6
    assert sum(again.stats.cache_hits.values()) == 1


def test_a_changed_file_of_kernels_makes_every_kernel_anew(monkeypatch, tmp_path, told):
    in_folder(monkeypatch, tmp_path / "cache")
    package = tmp_path / "package"
    for room in ("rng", "pruning"):
        shutil.copytree(PACKAGE / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compiled, "_PACKAGE", package)
    compiled._shared.cache_clear()
    try:
        assert scalar_kernel(double)(np.int64(3)) == 6
        same = scalar_kernel(double)
        assert (same(np.int64(3)), sum(same.stats.cache_hits.values())) == (6, 1)
        streams = package / "rng" / "streams.py"
        streams.write_text(streams.read_text() + "\n")
        compiled._shared.cache_clear()
        other = scalar_kernel(double)
        assert (other(np.int64(3)), other.stats.cache_hits) == (6, {})
    finally:
        compiled._shared.cache_clear()


def test_every_kernel_of_the_package_is_kept_this_way():
    """A decorator of Numba's own with `cache=True` would be stale, or fail in a folder to read only."""
    for path in PACKAGE.rglob("*.py"):
        assert "cache=True" not in path.read_text(encoding="utf-8"), path
    assert isinstance(__import__("saplab.rng.streams").rng.streams._fill_words._cache, KernelCache)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_an_installation_to_read_only_works_for_a_user_without_a_home(tmp_path):
    """An installed copy that nobody may write to, HOME nowhere: the kernels draw the same numbers."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "saplab", ignore=shutil.ignore_patterns("__pycache__"))
    powerless = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to take that away")
        powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    command = [sys.executable, "-c", PREDICT]
    folders = [site, *(path for path in site.rglob("*") if path.is_dir())]
    bare = {**os.environ, "PYTHONPATH": str(site), "HOME": "/nonexistent", "XDG_CACHE_HOME": "/proc/nonexistent"}
    bare.pop("NUMBA_CACHE_DIR", None)
    for folder in folders:
        folder.chmod(0o555)
    try:
        mine = subprocess.run([*powerless, *command], env=bare, capture_output=True, text=True, check=False)
        assert not list(site.rglob("__pycache__"))
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert mine.returncode == 0, mine.stderr
    assert mine.stderr.count("UncachedKernelsWarning") == 1
    other = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert mine.stdout == other.stdout
    assert list((site / "saplab" / "pruning").rglob("*.nbi"))

"""What holds for all tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before PyTorch is imported: the processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# Property tests try the same examples in every run, however busy the machine is.
settings.register_profile("saplab", derandomize=True, deadline=None)
settings.load_profile("saplab")


@pytest.fixture(scope="module", autouse=True)
def forget_modules_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave no module that a test file wrote to the next, which may write another of the same name."""
    places, base = list(sys.path), tmp_path_factory.getbasetemp()
    yield
    sys.path[:] = places
    for name, module in list(sys.modules.items()):
        if (file := getattr(module, "__file__", None)) and Path(file).is_relative_to(base):
            del sys.modules[name]

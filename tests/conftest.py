"""What holds for all tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before PyTorch is imported: the processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# Property tests try the same examples in every run, however busy the machine is.
settings.register_profile("saplab", derandomize=True, deadline=None)
settings.load_profile("saplab")

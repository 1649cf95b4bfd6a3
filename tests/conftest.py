"""What holds for all tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before PyTorch is imported: the processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

"""Peak memory of one gradient pass, in a process of its own: ``python -m suite.peak NAME IMAGES THREADS``."""

import sys
from pathlib import Path

import torch

from suite.passes import gradient_pass, network, sample_images


def memory_of_one_pass(name: str, count: int) -> int:
    """Measure how far the resident memory of this very process rises in one pass; in bytes. Linux alone tells it."""
    images, labels = sample_images(count)
    model = network(name)
    gradient_pass(model, images[:8], labels[:8])
    Path("/proc/self/clear_refs").write_text("5")  # sets the highest back to the present
    before = _highest()
    gradient_pass(model, images, labels)
    return _highest() - before


def _highest() -> int:
    """Give the highest resident memory of this process since it was last set back, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    sys.stdout.write(f"{memory_of_one_pass(sys.argv[1], int(sys.argv[2]))}\n")

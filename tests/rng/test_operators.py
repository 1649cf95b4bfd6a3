"""Operators without the compiler, and on devices for which there are no kernels."""

import subprocess
import sys

import pytest
import torch

import saplab.pruning.fused_noise  # noqa: F401  # defines the operator `noised`
from saplab.pruning.operator import _prune, prune
from saplab.rng.operators import through_cpu
from saplab.rng.streams import pass_streams, stream_key

FIRST_PASS = """
import sys, torch
from saplab.pruning.operator import prune
from saplab.rng.streams import pass_streams
h = torch.ones(2, 64, requires_grad=True)
prune(h, pass_streams(0, 0, torch.arange(2)), 20).sum().backward()
assert h.grad is not None
print("torch._dynamo" in sys.modules)
"""


def test_a_first_pass_does_not_import_the_compiler():
    run = subprocess.run([sys.executable, "-c", FIRST_PASS], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


class Elsewhere(torch.Tensor):
    """A tensor that says to be on another device until it is copied to the CPU."""

    @property
    def device(self):
        return torch.device("mps")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_kernels_gets_the_bits_of_the_cpu(monkeypatch):
    h = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).relu()
    streams = pass_streams(stream_key(0), 0, torch.arange(3))
    went = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: went.append((device, type(self))) or self)
    out = through_cpu(_prune)(h.as_subclass(Elsewhere), streams, 100, 0, "mask", "maps")
    assert went == [(torch.device("mps"), torch.Tensor)]
    monkeypatch.undo()
    assert torch.equal(out, prune(h, streams, 100))


@pytest.mark.parametrize("name", ["prune", "mask_gradient", "variates", "noised"])
@pytest.mark.parametrize("device", ["MPS", "XPU"])
def test_every_operator_serves_devices_without_kernels(name, device):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"saplab::{name}", device)

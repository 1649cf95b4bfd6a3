"""Operators without the compiler, and on devices for which there are no kernels."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from exact_law import rows
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import saplab.pruning.fused_noise  # noqa: F401  # defines the operator `noised`
from saplab.pruning.operator import _prune, prune
from saplab.rng.numbers import normals
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


@pytest.mark.parametrize("name", ["prune", "mask_gradient", "variates", "noised", "rescaled"])
@pytest.mark.parametrize("device", ["MPS", "XPU"])
def test_every_operator_serves_devices_without_kernels(name, device):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"saplab::{name}", device)


class Watching(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


class Listening(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_whoever_watches_sees_the_operator() -> None:
    h = torch.arange(1.0, 7.0).view(2, 3)
    alone = prune(h, rows(2), 2)
    with Watching() as watching:
        watched = prune(h, rows(2), 2)
    with Listening() as listening:
        listened = prune(h, rows(2), 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        profiled = prune(h, rows(2), 2)
    assert "saplab::prune" in watching.seen
    assert "saplab.prune" in listening.seen
    assert "saplab::prune" in {event.key for event in profile.key_averages()}
    traced = make_fx(lambda h: prune(h, rows(2), 2))(h)
    assert "saplab.prune" in traced.code
    for other in (watched, listened, profiled, traced(h)):
        assert torch.equal(other, alone)
    wanted = prune(h.clone().requires_grad_(), rows(2), 2)
    assert wanted.requires_grad
    assert torch.equal(wanted, alone)
    assert not alone.requires_grad


def test_what_is_no_plain_tensor_is_left_to_pytorch() -> None:
    negative = torch.fft.fft(torch.randn(2, 16)).conj().imag  # a view that says of its memory to be negated
    assert negative.is_neg()
    assert torch.equal(prune(negative, rows(2), 9), prune(negative.resolve_neg(), rows(2), 9))
    traced = torch.fx.symbolic_trace(lambda streams: normals(streams, 3))
    assert torch.equal(traced(rows(2)), normals(rows(2), 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own
def test_a_tangent_is_not_lost_in_silence() -> None:
    h = torch.arange(1.0, 7.0).view(2, 3)
    with forward_ad.dual_level(), pytest.raises(ValueError, match="no derivatives in forward mode"):
        prune(forward_ad.make_dual(h, torch.ones_like(h)), rows(2), 2)

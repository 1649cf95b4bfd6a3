"""What tracing and autograd see of the operators on a GPU: shapes and devices without numbers, so without a GPU."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import saplab
from saplab.pruning.backward import probability_gradient
from saplab.pruning.operator import BackwardRule, prune
from saplab.rng.numbers import normals

CUDA = torch.device("cuda", 0)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def fake() -> Iterator[None]:
    with FakeTensorMode():
        yield


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pruned_maps_and_gradients_are_like_the_maps(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    h = torch.empty(4, 3, 5, 7, dtype=dtype, device=CUDA, memory_format=memory_format)
    for keys in (torch.empty(4, 3, dtype=torch.int64), torch.empty(4, 3, dtype=torch.int64, device=CUDA)):
        out = prune(h, keys, 50)
        for t in (out, torch.ops.saplab.mask_gradient(h, h, out), probability_gradient(h, h, out, 50)):
            assert (t.device, t.dtype, t.shape) == (CUDA, dtype, h.shape)
        assert out.stride() == h.stride()


@pytest.mark.usefixtures("fake")
def test_variates_lie_with_their_streams() -> None:
    drawn = normals(torch.empty(4, 3, dtype=torch.int64, device=CUDA), 30)
    assert (drawn.device, drawn.dtype, drawn.shape) == (CUDA, torch.float32, (4, 30))


# whole networks are traced on the device `meta` (test_devices.py): slices and autograd's engine need CUDA for CUDA
@pytest.mark.usefixtures("fake")
def test_a_trace_holds_each_operator_as_one_node() -> None:
    def work(h: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return prune(h, keys, 50), normals(keys, 30)

    h, keys = torch.empty(4, 105, device=CUDA), torch.empty(4, 3, dtype=torch.int64, device=CUDA)
    own = [node for node in make_fx(work)(h, keys).graph.nodes if node.op == "call_function"]
    assert [node.target for node in own] == [torch.ops.saplab.prune.default, torch.ops.saplab.variates.default]
    assert all(node.meta["val"].device == CUDA for node in own)


class Network(nn.Module):
    """Two rectified convolutions, and a last layer."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.second(F.relu(self.first(x))))).flatten(1)  # type: ignore[no-any-return]


def bytes_kept(network: nn.Module, rule: BackwardRule) -> int:
    """Count the bytes that a pass of four examples keeps for its gradient, each memory once."""
    kept: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.data_ptr()] = t
        return t

    defended = saplab.defend(network, saplab.SAP(100), backward=rule)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        defended(x)
    return sum(t.nbytes for t in kept.values())


# the same on every device; the identity keeps nothing of its own, so what is there with it is the network's
@pytest.mark.parametrize("rule", ["mask", "probability"])
@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("convolution", [True, False])
def test_pruning_keeps_nothing_but_for_a_frozen_linear_layer(
    rule: BackwardRule, learning: bool, convolution: bool
) -> None:
    last = nn.Conv2d(8, 10, 8) if convolution else nn.Sequential(nn.Flatten(), nn.Linear(512, 10))
    network = Network(last).requires_grad_(learning)
    more = bytes_kept(network, rule) - bytes_kept(network, "identity")
    assert more == (0 if learning or convolution else 4 * 4 * 512)  # one float32 map an example

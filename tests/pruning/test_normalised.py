"""ReLU inside the pruning's pass over memory, and batch-norm inside its gradient: the same numbers as one by one."""

import pytest
import torch
import torch.nn.functional as F
from exact_law import rows
from torch import Tensor, nn

import saplab
from saplab.defenses.drawing import drawing
from saplab.pruning.operator import RULES, prune
from saplab.rng.streams import pass_streams

LAYOUTS = [torch.contiguous_format, torch.channels_last]
GENERATOR = torch.Generator().manual_seed(0)


def maps(dtype: torch.dtype = torch.float32, layout: torch.memory_format = torch.channels_last) -> Tensor:
    h = torch.randn(5, 16, 6, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    h[0, 0] = 0.0
    return h.contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rectified_pruning_is_pruning_of_relu(rule, dtype, layout):
    h = maps(dtype, layout)
    grad = torch.randn_like(h.detach(), dtype=torch.float32).to(dtype)
    together, apart = prune(h, rows(5), 200, rule=rule, rectify=True), prune(h.relu(), rows(5), 200, rule=rule)
    assert torch.equal(together, apart)
    assert together.stride() == apart.stride()
    assert torch.equal(*(torch.autograd.grad(out, h, grad)[0] for out in (together, apart)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_relu_hides_no_bad_number_and_minus_infinity_as_ever(layout, value):
    h = maps(layout=layout).detach()
    h[3, 2, 1, 1] = -torch.inf
    assert torch.equal(prune(h, rows(5), 200, rectify=True), prune(h.relu(), rows(5), 200))
    h[3, 2, 1, 1] = value
    with pytest.raises(ValueError, match="1 of 5 maps, first in example 3"):
        prune(h, rows(5), 200, rectify=True)


def test_opcheck_of_rectified_pruning():
    for rule in RULES:
        torch.library.opcheck(torch.ops.saplab.prune.default, (maps(), rows(5), 30, 2, rule, "relu", True))


class Net(nn.Module):
    """Batch-norm and ReLU, with what may stand between and beside them."""

    def __init__(self, between: str = "nothing") -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3, affine=between != "no weights"), nn.Conv2d(3, 4, 3)
        self.last = nn.BatchNorm2d(4)
        for norm in (self.norm, self.last):
            norm.running_mean.normal_(generator=GENERATOR)
            norm.running_var.uniform_(0.3, 3.0, generator=GENERATOR)
            if norm.affine:
                nn.init.normal_(norm.weight, generator=GENERATOR)
        self.between = between
        self.eval().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.between == "in place":
            y.mul_(2.0)
        if self.between == "a function":
            y = y * 2.0
        h = F.relu(y)
        if self.between == "beside":
            h = h + y
        return F.relu(self.last(self.head(h))).mean((2, 3))


def gradient(net: nn.Module, x: Tensor, inputs_only: bool, rule) -> Tensor:
    x = x.detach().requires_grad_()
    with drawing(pass_streams(5, 0, torch.arange(len(x))), rule, inputs_only):
        (found,) = torch.autograd.grad(net(x).square().sum(), x)
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("between", ["nothing", "no weights", "in place", "a function", "beside"])
def test_the_way_past_batch_norm_leads_to_the_same_gradient(between, rule):
    net = saplab.defend(Net(between), saplab.SAP(100), saplab.Dropout(0.2))
    x = torch.randn(5, 3, 8, 8, generator=GENERATOR).contiguous(memory_format=torch.channels_last)
    short, long = (gradient(net, x, inputs_only, rule) for inputs_only in (True, False))
    assert long.abs().max() > 0
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6 * float(long.abs().max()))


@pytest.mark.parametrize("rule", ["mask", "identity"])
def test_the_way_past_batch_norm_in_bfloat16(rule):
    net = saplab.defend(Net(), saplab.SAP(100)).bfloat16()
    x = torch.randn(5, 3, 8, 8, generator=GENERATOR).bfloat16().contiguous(memory_format=torch.channels_last)
    short, long = (gradient(net, x, inputs_only, rule).float() for inputs_only in (True, False))
    torch.testing.assert_close(short, long, rtol=3 * 2**-8, atol=2**-7 * float(long.abs().max()))


def backward_nodes(output: Tensor) -> set[str]:
    names, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            names.add(type(node).__name__)
            todo += [following for following, _ in node.next_functions]
    return names


@pytest.mark.parametrize("inputs_only", [True, False])
def test_only_where_parameters_need_no_gradient_batch_norm_is_passed_by(inputs_only):
    net = saplab.defend(Net(), saplab.SAP(100))
    x = torch.randn(5, 3, 8, 8, generator=GENERATOR).contiguous(memory_format=torch.channels_last).requires_grad_()
    with drawing(pass_streams(5, 0, torch.arange(5)), "mask", inputs_only):
        names = backward_nodes(net(x))
    assert ("NativeBatchNormBackward0" in names) != inputs_only


def test_parameters_of_direct_calls_have_their_gradients():
    net = saplab.defend(Net(), saplab.SAP(100))
    net(torch.randn(5, 3, 8, 8, generator=GENERATOR)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())

"""Backward passes that go another way than forward: `bpda` for parts of networks, `surrogate` for defences."""

import copy
import pickle
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.defenses import Defense, Draw
from saplab.defenses.drawing import drawing
from saplab.defenses.parallel import may_run_in_threads
from saplab.models.identity import network_digest
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key
from saplab.system.source import callable_digest


def rounded(x: Tensor) -> Tensor:
    return (4 * x).round() / 4


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def gradient(function: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).square().sum(), x)[0]


# --- bpda ------------------------------------------------------------------------------------------------------------


def test_forward_is_the_part_and_backward_the_identity(x: Tensor) -> None:
    module = saplab.bpda(rounded)
    assert torch.equal(module(x), rounded(x))
    assert torch.equal(gradient(module, x), 2 * rounded(x))
    assert (gradient(rounded, x) == 0).all()


def test_backward_is_that_of_the_function_at_the_same_input(x: Tensor) -> None:
    module = saplab.bpda(rounded, torch.sin)
    assert torch.equal(module(x), rounded(x))
    torch.testing.assert_close(gradient(module, x), 2 * rounded(x) * x.cos())


def test_a_function_may_change_the_shape_as_the_part_does(x: Tensor) -> None:
    def mean(x: Tensor) -> Tensor:
        return x.mean((2, 3))

    module = saplab.bpda(lambda x: rounded(mean(x)), mean)
    expected = (2 * rounded(mean(x)))[:, :, None, None].expand(x.shape) / 4
    torch.testing.assert_close(gradient(module, x), expected)
    with pytest.raises(
        ValueError, match=r"must be a function where `part` changes the shape.*\(5, 3\) .*\(5, 3, 2, 2\)"
    ):
        saplab.bpda(mean)(x)
    with pytest.raises(ValueError, match=r"`backward` must have the shape \(5, 3\).*got \(5, 3, 2, 2\)"):
        saplab.bpda(mean, torch.sin)(x)


def test_a_part_may_draw_change_its_input_and_leave_pytorch(x: Tensor) -> None:
    def through_numpy(x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().round(1))

    assert torch.equal(gradient(saplab.bpda(through_numpy), x), 2 * through_numpy(x))
    generator = torch.Generator().manual_seed(1)
    noisy = saplab.bpda(lambda x: x + torch.rand(x.shape, generator=generator))
    assert not torch.equal(noisy(x), noisy(x))
    before = x.clone()
    assert torch.equal(saplab.bpda(nn.Hardtanh(0.2, 0.4, inplace=True))(x), x.clamp(0.2, 0.4))
    assert torch.equal(x, before)


def test_values_are_the_parts_also_where_the_input_is_not_finite() -> None:
    x = torch.tensor([torch.inf, torch.nan, 2.0])
    assert saplab.bpda(partial(torch.nan_to_num, posinf=1.0))(x).tolist() == [1.0, 0.0, 2.0]


def test_only_the_backward_modules_parameters_get_gradients(x: Tensor) -> None:
    part, stand_in = nn.Linear(2, 2), nn.Linear(2, 2)
    saplab.bpda(part, stand_in)(x).sum().backward()
    assert part.weight.grad is None
    assert stand_in.weight.grad is not None


def test_further_arguments_are_passed_on(x: Tensor) -> None:
    module = saplab.bpda(lambda x, steps, shift: (steps * x).round() / steps + shift,
                         lambda x, steps, shift: steps * x)  # fmt: skip
    assert torch.equal(module(x, 2, shift=1), (2 * x).round() / 2 + 1)
    assert torch.equal(gradient(lambda x: module(x, 2, shift=0), x), 2 * (2 * x).round())


def test_mistakes_are_named(x: Tensor) -> None:
    with pytest.raises(TypeError, match="`part` must be a module or a function, got int"):
        saplab.bpda(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`backward` must be 'identity' or a function, got 'idenity'"):
        saplab.bpda(rounded, "idenity")  # type: ignore[arg-type]
    for wrong, got in ((lambda x: x.long(), r"torch\.int64"), (lambda x: [x], "list")):
        with pytest.raises(TypeError, match=f"tensor of floating-point numbers, got {got}"):
            saplab.bpda(wrong)(x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")  # PyTorch's own, in forward mode
def test_it_works_in_transforms_of_torch_func(x: Tensor) -> None:
    module, x = saplab.bpda(rounded, torch.sin), x.flatten()

    def loss(x: Tensor) -> Tensor:
        return module(x).square().sum()

    expected = 2 * rounded(x) * x.cos()
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    torch.testing.assert_close(torch.func.jacrev(module)(x), torch.diag(x.cos()))
    torch.testing.assert_close(torch.func.jacfwd(module)(x), torch.diag(x.cos()))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x.view(5, 12)), expected.view(5, 12))


def test_it_compiles_in_one_graph(x: Tensor) -> None:
    torch.compiler.reset()
    module = saplab.bpda(rounded, torch.sin)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradient(compiled, x), gradient(module, x))
    torch.compiler.reset()


def test_it_pickles_copies_and_keeps_the_parts_parameters(x: Tensor) -> None:
    module = saplab.bpda(nn.Sequential(nn.Linear(2, 2), nn.Hardtanh()), torch.sin)
    assert list(module.state_dict()) == ["part.0.weight", "part.0.bias"]
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(gradient(twin, x), gradient(module, x))


def test_networks_are_told_apart_by_what_their_parts_do() -> None:
    def digest(part: Any, backward: Any = "identity") -> str:
        return network_digest(nn.Sequential(saplab.bpda(part, backward), nn.Linear(2, 2)).apply(_zero))

    def power(exponent: int) -> Any:
        return lambda x: x**exponent

    parts = [rounded, torch.round, torch.floor, nn.Hardtanh(), nn.Hardtanh(0, 1), power(2), power(3),
             partial(torch.round, decimals=1), partial(torch.round, decimals=2), lambda x: x + 1,
             lambda x: x + 2]  # fmt: skip
    digests = [digest(part) for part in parts] + [digest(rounded, torch.sin), digest(rounded, torch.cos)]
    assert len(set(digests)) == len(digests)
    assert digest(power(2)) == digest(power(2))
    assert callable_digest(torch.round) == callable_digest(torch.round)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.zero_()


def test_parts_that_leave_traces_do_not_share_threads(x: Tensor) -> None:
    quiet = nn.Sequential(saplab.bpda(rounded), nn.Flatten()).eval()
    drawn = nn.Sequential(saplab.bpda(lambda x: x + torch.rand(x.shape)), nn.Flatten()).eval()
    for net, allowed in ((quiet, True), (drawn, False)):
        assert may_run_in_threads(net, lambda some, net=net: (net(some),), (x,)) is allowed


def test_an_attack_finds_what_a_flat_gradient_hides(x: Tensor) -> None:
    """The hand-made BPDA of a rounding network, against the network as it is."""
    net = initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3)), 0).eval()
    labels = net(rounded(x)).argmax(1)
    steps = saplab.PGD(saplab.MonteCarlo(), steps=10)
    whole = nn.Sequential(saplab.bpda(rounded), net).eval()
    adversarial = steps(whole, x, labels, eps=0.4, seed=1)
    flat = steps(nn.Sequential(_Rounded(), net).eval(), x, labels, eps=0.4, seed=1)
    judged = [(net(rounded(points)).softmax(1)[range(5), labels]).mean() for points in (flat, adversarial)]
    assert judged[1] < judged[0] - 0.02


class _Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return rounded(x)


# --- defences ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputSteps(Defense):
    """Random steps on the image; on the way back the hook's own random scale, without the steps."""

    steps: bool = True

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        return self._changed(x, draw)

    def _changed(self, x: Tensor, draw: Draw) -> Tensor:
        scaled = 3 * draw.normal(x.shape) * x
        return scaled.round() if self.steps else scaled

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        assert (hook, where) == ("input", "")
        return 3 * draw.normal(x.shape) * x


@dataclass(frozen=True)
class MapSteps(Defense):
    """The same on activations."""

    steps: bool = True

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return InputSteps._changed(self, h, draw)  # type: ignore[arg-type]

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        assert (hook, where) == ("activation", "relu")
        return 3 * draw.normal(x.shape) * x


class Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def of_rule(model: nn.Module, x: Tensor, rule: Any) -> Tensor:
    with drawing(pass_streams(stream_key(0), 0, torch.arange(len(x))), rule):
        return gradient(model, x)


@pytest.mark.parametrize(("kind", "net"), [(InputSteps, nn.Identity()), (MapSteps, Relu())])
def test_a_surrogate_gets_the_hooks_numbers_and_takes_its_place(kind: Any, net: nn.Module, x: Tensor) -> None:
    defended = saplab.defend(net, kind())
    with drawing(pass_streams(stream_key(0), 0, torch.arange(len(x)))):
        out, scale = defended(x), saplab.defend(net, kind(steps=False))(torch.ones_like(x))
    torch.testing.assert_close(out, (scale * x).round())
    for rule, expected in {"mask": 2 * out * scale, "probability": 2 * out * scale, "identity": 2 * out}.items():
        torch.testing.assert_close(of_rule(defended, x, rule), expected)
    assert kind().has_rules


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_surrogates_compile(x: Tensor) -> None:
    torch.compiler.reset()
    defended = saplab.defend(Relu(), MapSteps())
    compiled = torch.compile(defended, backend="aot_eager")
    for rule in ("mask", "identity"):
        torch.testing.assert_close(of_rule(compiled, x, rule), of_rule(defended, x, rule))
    torch.compiler.reset()


@dataclass(frozen=True)
class Half(Defense):
    """Takes every second column, so that straight through has no shape."""

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        return 3 * x[..., ::2]


@dataclass(frozen=True)
class Straight(InputSteps):
    """Goes straight through by every rule."""

    bends: ClassVar[bool] = False

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        return x


@dataclass(frozen=True)
class Misshapen(Half):
    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        return x


def test_identity_of_another_shape_takes_the_hooks_own_gradient(x: Tensor) -> None:
    defended = saplab.defend(nn.Identity(), Half())
    assert torch.equal(of_rule(defended, x, "identity"), of_rule(defended, x, "mask"))
    torch.testing.assert_close(of_rule(defended, x, "identity")[..., 0], 18 * x[..., 0])
    with pytest.raises(ValueError, match=r"Misshapen\.surrogate of input must have the shape \(5, 3, 2, 1\)"):
        of_rule(saplab.defend(nn.Identity(), Misshapen()), x, "mask")


def test_where_the_surrogate_is_the_identity_there_is_no_choice_of_rules(x: Tensor) -> None:
    defended = saplab.defend(nn.Identity(), Straight())
    with drawing(pass_streams(stream_key(0), 0, torch.arange(len(x)))):
        out = defended(x)
    for rule in ("mask", "probability", "identity"):
        assert torch.equal(of_rule(defended, x, rule), 2 * out)
    assert not Straight().has_rules


def test_predictions_do_not_ask_for_the_surrogate(x: Tensor) -> None:
    with torch.no_grad():
        assert saplab.defend(nn.Identity(), Misshapen())(x).shape == (5, 3, 2, 1)

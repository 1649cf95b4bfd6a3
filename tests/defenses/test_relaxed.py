"""The backward rule ``relaxed``: forward the same bits, backward a slope where there was none, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saplab
from saplab.defenses.relaxed import relaxing
from saplab.models.initialise import initialise

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(6 * 3 * 8 * 8, generator=torch.Generator().manual_seed(1))

Function = Callable[[Tensor], Tensor]


def run(function: Function, relaxed: bool, at: Tensor = X) -> tuple[Tensor, Tensor | None]:
    """Give a function's value, and the gradient of its entries' weighted sum; None where there is none."""
    x = at.clone().requires_grad_()
    with relaxing(relaxed):
        y = function(x)
    if not y.requires_grad:
        return y, None
    try:
        (gradient,) = torch.autograd.grad((y.flatten() * WEIGHTS[: y.numel()]).sum(), x, allow_unused=True)
    except RuntimeError:  # PyTorch has no gradient of rounded divisions
        return y.detach(), None
    return y.detach(), gradient


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def filled_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y[x < 0.3] = 0
    return y


STEPWISE: dict[str, Function] = {
    "sign": torch.sign,
    "sign as a method": lambda x: x.sign(),
    "sgn": torch.sgn,
    "round": lambda x: torch.round(x * 7) / 7,
    "round in place": lambda x: (x * 7).round_(),
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "division": lambda x: x // 0.25,
    "division by name": lambda x: torch.div(x, 0.25, rounding_mode="floor"),
    "long and back": lambda x: (x * 255).long().float(),
    "to": lambda x: (x * 255).to(torch.int32).to(torch.float32),
    "type": lambda x: (x * 255).type(torch.int64).type(torch.float32),
    "whole numbers": lambda x: ((x * 9).long() * 2 + 1).float(),
    "whole numbers made real": lambda x: (x * 9).int() / 9,
    "bits cut off": lambda x: ((x * 100).int() & -16).float(),
    "bits shifted": lambda x: ((x * 100).int() >> 3).float(),
    "views of whole numbers": lambda x: (x * 9).long().view(6, -1)[:, :50].float(),
    "mask": lambda x: (x > 0.5).float(),
    "mask of a sum": lambda x: (x > 0).sum((2, 3)).float(),
    "mask joined": lambda x: ((x > -1) & ~(x > 1)).float(),
    "mask of signs": lambda x: (2 * (x > 0) - 1).float(),
    "where": lambda x: torch.where(x < 0, -1.0, 1.0),
    "one hot": lambda x: F.one_hot(flat(x).argmax(1), 192).float(),
    "one hot of max": lambda x: F.one_hot(flat(x).max(1)[1], 192).float(),
    "equal to the largest": lambda x: (flat(x) == flat(x).amax(1, keepdim=True)).float(),
    "top-k": lambda x: torch.zeros(6, 192).scatter_(1, flat(x).topk(9, 1).indices, 1.0),
    "argmax scattered": lambda x: torch.zeros(6, 192).scatter(1, flat(x).argmax(1)[:, None], 1.0),
}
SATURATED: dict[str, Function] = {
    "sigmoid": lambda x: (1e4 * x).sigmoid(),
    "sigmoid module": lambda x: nn.Sigmoid()(1e4 * x),
    "tanh": lambda x: torch.tanh(1e4 * x),
    "tanh in place": lambda x: (1e4 * x).tanh_(),
    "erf": lambda x: torch.erf(1e4 * x),
    "softmax": lambda x: F.softmax(1e6 * x, 1),
    "softmax as a method": lambda x: (1e6 * x).softmax(dim=1),
    "two-way softmax": lambda x: torch.softmax(torch.stack((x, 0 * x)) / 1e-4, 0)[0],
    "cross-entropy": lambda x: F.cross_entropy(1e5 * flat(x), flat(X).argmax(1), reduction="none"),
    "hardsigmoid": lambda x: F.hardsigmoid(1e4 * x),
    "hardtanh": lambda x: nn.Hardtanh(inplace=True)(1e4 * x),
    "clamp": lambda x: (1e4 * x).clamp(0, 1),
    "clamp in place": lambda x: (1e4 * x).clamp_(0, 1),
    "relu6": lambda x: F.relu6(1e4 * x.abs()),
    "relu6 module": lambda x: nn.ReLU6()(1e4 * x.abs()),
    "hardswish": lambda x: F.hardswish(x - 20),
}
SPARSE = ("views of whole numbers", "cross-entropy")  # which speak of some of the entries, or of some more than others
CUT: dict[str, Function] = {
    "masked": lambda x: x * (x > 0.5),
    "masked by a float": lambda x: (x > 0.5).float() * x,
    "masked fill": lambda x: x.masked_fill(x < 0.3, 0),
    "masked fill in place": filled_in_place,
    "threshold": lambda x: F.threshold(x, 0.5, 0.0),
    "hardshrink": F.hardshrink,
    "winners": lambda x: flat(x) * (flat(x) >= flat(x).topk(20, 1).values[:, -1:]),
}
EXACT: dict[str, Function] = {
    "relu": F.relu,
    "relu by hand": lambda x: x * (x > 0),
    "relu by a float": lambda x: x * (x > 0).float(),
    "leaky": lambda x: torch.where(x > 0, x, 0.1 * x),
    "leaky by floats": lambda x: (x > 0).float() * x + (1 - (x > 0).float()) * (0.1 * x),
    "elu by hand": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "size by signs": lambda x: x * x.sign(),
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: torch.tanh(3 * x),
    "softmax": lambda x: F.softmax(9 * x, 1),
    "log softmax": lambda x: F.log_softmax(20 * x, 1),
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "clamp": lambda x: x.clamp(-1, 1),
    "clamp below": lambda x: (1e4 * x).clamp(min=0),
    "swish as steep as a ReLU": lambda x: x * torch.softmax(torch.stack((x, 0 * x)) / 1e-5, 0)[0],
    "the same by a sigmoid": lambda x: (1e5 * x).sigmoid() * x,
    "straight-through": lambda x: x + (x.round() - x).detach(),
    "detached mask": lambda x: x * (x.detach() > 0.5),
}


@pytest.mark.parametrize("name", STEPWISE | SATURATED | CUT | EXACT)
def test_forward_is_what_the_network_computes(name: str) -> None:
    function = (STEPWISE | SATURATED | CUT | EXACT)[name]
    plain, relaxed = run(function, False)[0], run(function, True)[0]
    assert plain.dtype == relaxed.dtype
    assert torch.equal(plain, relaxed)


@pytest.mark.parametrize("name", STEPWISE | SATURATED)
def test_a_gradient_that_vanishes_comes_back(name: str) -> None:
    function = (STEPWISE | SATURATED)[name]
    before, found = run(function, False)[1], run(function, True)[1]
    assert before is None or (before != 0).float().mean() < 0.6
    assert found is not None
    assert torch.isfinite(found).all()
    touched = (found.flatten(1) != 0).float().mean(1)
    assert (touched > (0.01 if name in SPARSE else 0.9)).all()


@pytest.mark.parametrize("name", CUT)
def test_what_a_mask_cuts_off_gets_a_gradient_too(name: str) -> None:
    before, found = run(CUT[name], False)[1], run(CUT[name], True)[1]
    assert before is not None
    assert found is not None
    assert (before != 0).float().mean() < 0.8
    assert (found != 0).float().mean() > 0.9


@pytest.mark.parametrize("name", EXACT)
def test_where_nothing_saturates_the_gradient_is_autograds(name: str) -> None:
    before, found = run(EXACT[name], False)[1], run(EXACT[name], True)[1]
    torch.testing.assert_close(found, before)


def test_signs_of_the_slopes() -> None:
    rising = lambda x: x > 0  # noqa: E731
    steps = {"rising": rising, "falling": lambda x: x < 0, "turned": lambda x: ~rising(x)}
    for name, function in steps.items():
        x = X.clone().requires_grad_()
        with relaxing(True):
            function(x).float().sum().backward()
        assert ((x.grad if name == "rising" else -x.grad) > 0).all(), name  # type: ignore[operator]


def test_more_of_one_score_takes_from_the_others() -> None:
    z = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    with relaxing(True):
        F.one_hot(z.argmax(1), 3).float()[0, 0].backward()
    assert z.grad is not None
    assert z.grad[0, 0] > 0 > z.grad[0, 2]
    assert abs(float(z.grad.sum())) < 1e-6


@pytest.mark.parametrize("name", ["sign", "mask", "top-k"])
def test_no_example_depends_on_the_others(name: str) -> None:
    function = {"sign": torch.sign, "mask": lambda x: (x > 0.5).float(), "top-k": CUT["winners"]}[name]
    x = X * torch.logspace(-3, 3, 6)[:, None, None, None]
    grads = []
    for rows in (slice(None), slice(2, 4)):
        some = x[rows].clone().requires_grad_()
        with relaxing(True):
            function(some).sum().backward()
        grads.append(some.grad[2:4] if rows == slice(None) else some.grad)  # type: ignore[index]
    assert torch.equal(*grads)  # type: ignore[arg-type]


def test_without_gradients_nothing_happens() -> None:
    with relaxing(True), torch.no_grad():
        assert not hasattr(X > 0, "_saplab_mark")
    with relaxing(False):
        assert not (X.clone().requires_grad_() > 0).float().requires_grad


def test_a_network_of_the_package_has_the_very_same_gradient() -> None:
    net = saplab.load_model("preact-resnet20-dense").eval()
    images, labels = saplab.load_cifar10("sample")
    problem = saplab.Problem.of(net, images[:12], labels[:12])
    for loss in ("cross-entropy", "margin", "dlr"):
        plain, relaxed = (saplab.MonteCarlo(backward=b, loss=loss).estimate(problem) for b in ("mask", "relaxed"))
        assert torch.equal(plain.gradient, relaxed.gradient)


class Scaled(nn.Module):
    """A network whose logits are so large that cross-entropy has no gradient."""

    def __init__(self, net: nn.Module, factor: float = 1e5) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.factor


class Rounding(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 7).round() / 7)


class TwoWay(nn.Module):
    """Two-way softmax so sharp that its outputs are 0 or 1 to the bit: which of (x, 0) is larger."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(torch.stack((x, torch.zeros_like(x))) / 1e-8, 0)[0]


@pytest.fixture
def net() -> nn.Module:
    return initialise(nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 5)), 0).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(2))


def right(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((saplab.predict(net, images).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("kind", [Scaled, Rounding])
def test_an_attack_sees_what_a_flat_gradient_hides(kind: type[nn.Module], net: nn.Module, images: Tensor) -> None:
    hidden = kind(net).eval()  # type: ignore[call-arg]
    labels = hidden(images).argmax(1)
    plain, relaxed = (saplab.PGD(saplab.MonteCarlo(backward=b), steps=10) for b in ("mask", "relaxed"))
    assert right(hidden, plain(hidden, images, labels, 0.3), labels) > 0.5
    assert right(hidden, relaxed(hidden, images, labels, 0.3), labels) < 0.2


@pytest.mark.parametrize("layers", [1, 2])
def test_an_attack_sees_through_units_that_are_truly_binary(layers: int, images: Tensor) -> None:
    hidden = [module for _ in range(layers - 1) for module in (nn.Linear(64, 64), TwoWay())]
    seen: list[Tensor] = []
    binary = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), TwoWay(), *hidden, nn.Linear(64, 5))
    binary = initialise(binary, 0).eval()
    binary[2].register_forward_hook(lambda module, given, out: seen.append(out.detach()))
    labels = binary(images).argmax(1)
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}
    plain, relaxed = (saplab.PGD(saplab.MonteCarlo(backward=b), steps=20) for b in ("mask", "relaxed"))
    assert (saplab.MonteCarlo().estimate(saplab.Problem.of(binary, images, labels)).gradient == 0).all()
    assert right(binary, plain(binary, images, labels, 0.3), labels) > 0.5
    assert right(binary, relaxed(binary, images, labels, 0.3), labels) < 0.2


@dataclass(frozen=True)
class RoundedMaps(saplab.Defense):
    """A defence of a user's, that knows nothing of rules."""

    def activation(self, h: Tensor, draw: saplab.Draw, where: str) -> Tensor:
        return (h * 4 + draw.uniform(h.shape)).floor() / 4


def test_a_users_defence_is_relaxed(net: nn.Module, images: Tensor) -> None:
    labels, own = net(images).argmax(1), saplab.defend(net, RoundedMaps())
    found = {b: gradient_of(own, images, labels, b) for b in ("mask", "relaxed")}
    assert (found["mask"] == 0).all()
    assert (found["relaxed"].flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("defense", [saplab.SAP(100), saplab.Dropout(0.5), saplab.RandomlyScaledActivations(0.5)])
def test_what_returns_its_input_on_average_is_passed_straight_through(
    defense: saplab.Defense, net: nn.Module, images: Tensor
) -> None:
    """So that what is saturated behind a defence, and the defence, hide nothing together."""
    labels, defended = net(images).argmax(1), saplab.defend(net, defense)
    found = {b: gradient_of(defended, images, labels, b) for b in ("mask", "identity", "relaxed")}
    assert torch.equal(found["relaxed"], found["identity"])
    assert not torch.equal(found["relaxed"], found["mask"])


def gradient_of(net: nn.Module, images: Tensor, labels: Tensor, rule: str) -> Tensor:
    problem = saplab.Problem.of(net, images, labels)
    return saplab.MonteCarlo(4, backward=rule).estimate(problem).gradient  # type: ignore[arg-type]


def test_stacks_threads_and_single_passes_agree(net: nn.Module, images: Tensor) -> None:
    own = saplab.defend(net, RoundedMaps())
    labels, gradient = net(images).argmax(1), saplab.MonteCarlo(6, backward="relaxed")
    together = gradient.estimate(saplab.Problem.of(own, images, labels)).gradient
    alone = gradient.estimate(saplab.Problem.of(own, images, labels, batch_size=1)).gradient
    torch.testing.assert_close(together, alone)


def test_direct_calls_of_a_defended_network_are_relaxed(net: nn.Module, images: Tensor) -> None:
    slopes = {}
    for rule in ("mask", "relaxed"):
        x = images.clone().requires_grad_()
        saplab.defend(net, RoundedMaps(), backward=rule)(x).sum().backward()  # type: ignore[arg-type]
        slopes[rule] = float(x.grad.norm())  # type: ignore[union-attr]
    assert slopes["mask"] == 0 < slopes["relaxed"]


def test_the_rule_survives_where_defences_have_none() -> None:
    relaxed, identity = (saplab.PGD(saplab.MonteCarlo(backward=b)) for b in ("relaxed", "identity"))
    assert relaxed.plain(random=False, rules=False, own=True).gradient.backward == "relaxed"
    assert identity.plain(random=False, rules=False, own=True).gradient.backward == "mask"
    assert relaxed.describe(rules=False) == "PGD-20 relaxed"
    assert "relaxed" in relaxed.spec


KEYWORDS: dict[str, tuple[Function, Function]] = {
    "where": (lambda x: torch.where(x > 0, input=x, other=-x), lambda x: torch.where(x > 0, x, -x)),
    "gt": (lambda x: torch.gt(x, other=0.2) * 1.0, lambda x: (x > 0.2) * 1.0),
    "round": (lambda x: torch.round(input=7 * x), lambda x: torch.round(7 * x)),
    "mul": (lambda x: torch.mul(input=x, other=(x > 0)), lambda x: x * (x > 0)),
    "argmax": (
        lambda x: F.one_hot(torch.argmax(input=flat(x), dim=1), 192).float(),
        lambda x: F.one_hot(flat(x).argmax(1), 192).float(),
    ),
    "scatter": (
        lambda x: torch.zeros(6, 192).scatter(dim=1, index=flat(x).argmax(1)[:, None], value=1.0),
        lambda x: torch.zeros(6, 192).scatter(1, flat(x).argmax(1)[:, None], 1.0),
    ),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_arguments_may_be_named(name: str) -> None:
    named, usual = (run(function, True) for function in KEYWORDS[name])
    assert torch.equal(named[0], usual[0])
    assert named[1] is not None
    assert usual[1] is not None
    assert torch.equal(named[1], usual[1])
    assert named[1].abs().sum() > 0


def test_a_form_that_no_rule_is_of_runs_as_it_is() -> None:
    x = X.clone().requires_grad_()
    with relaxing(True):
        found = torch.where(x > 0)
    assert all(map(torch.equal, found, torch.where(X > 0)))

"""A defence of the user's: each hook alone and all together, with saplab's own, and the network without them."""

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saplab
from saplab.attacks import Problem
from saplab.defenses import Defense, Draw, defenses_of, is_random, parse_defenses, shares_draws, undefended
from saplab.defenses.drawing import drawing
from saplab.defenses.stochastic import ready
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key


@dataclass(frozen=True)
class NoisyInput(Defense):
    std: float = 0.5

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        return x + self.std * draw.normal(x.shape)


@dataclass(frozen=True)
class Rounded(Defense):
    """Rounds activations at random: its own gradient is zero."""

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return (4 * h + draw.uniform(h.shape)).floor() / 4


@dataclass(frozen=True)
class NoisyWeights(Defense):
    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        return w + 0.1 * draw.normal(w.shape)


@dataclass(frozen=True)
class Everywhere(Defense):
    def input(self, x: Tensor, draw: Draw) -> Tensor:
        return x * draw.bernoulli(0.9, x.shape)

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return h[torch.arange(len(h))[:, None], draw.permutation(h.shape[1])] + draw.randint(0, 2, h.shape)

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        return w + 0.1 * draw.normal(w.shape)


@dataclass(frozen=True)
class OneMask(Defense):
    """Hides the same entries of the maps of all examples."""

    shared: ClassVar[bool] = True

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return h * draw.per_pass.bernoulli(0.5, h.shape[1:])


OWN = [NoisyInput(), Rounded(), NoisyWeights(), Everywhere(), OneMask()]
every_own = pytest.mark.parametrize("own", OWN, ids=lambda own: type(own).__name__)


@pytest.fixture
def net() -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 20), nn.GELU(), nn.Linear(20, 3))
    return initialise(layers, 0).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def rows(count: int, pass_: int = 0) -> Tensor:
    return pass_streams(stream_key(0), pass_, torch.arange(count))


# --- hooks -----------------------------------------------------------------------------------------------------------


@every_own
@pytest.mark.parametrize("more", ["", "sap:80", "rnw:0.1+dropout:0.1"])
def test_predictions_are_a_matter_of_seed_pass_and_example(
    own: Defense, more: str, net: nn.Module, images: Tensor
) -> None:
    others = parse_defenses(more)
    if "weight" in own.hooks and "rnw" in more:
        with pytest.raises(ValueError, match=r"act both on '1\.weight', where their order would decide"):
            saplab.defend(net, own, *others)
        return
    defended = saplab.defend(net, own, *others, seed=1)
    outs = [defended(images).detach() for _ in range(5)]
    assert all(not torch.equal(outs[i], outs[j]) for i in range(5) for j in range(i))
    assert torch.equal(saplab.defend(net, own, *others, seed=1)(images), outs[0])
    whole = saplab.predict(defended, images, passes=3, seed=1)
    close = {"atol": 1e-6, "rtol": 0.0}  # the linear layers' own rounding
    if not isinstance(own, Everywhere):  # which mixes the examples of a batch
        torch.testing.assert_close(saplab.predict(defended, images, 3, 1, batch_size=2), whole, **close)
        order = torch.tensor([3, 0, 5])
        some = saplab.predict(defended, images[order], 3, 1, examples=order)
        torch.testing.assert_close(some, whole[order], **close)


def test_an_input_hook_changes_the_first_tensor_however_it_comes(images: Tensor) -> None:
    class Keywords(nn.Module):
        def forward(self, scale: float = 1.0, *, pixels: Tensor) -> Tensor:
            return pixels * scale

    x = torch.zeros(4, 9)
    with drawing(rows(4)):
        expected = saplab.defend(nn.Identity(), NoisyInput())(x)
        assert torch.equal(saplab.defend(Keywords(), NoisyInput())(2.0, pixels=x), 2 * expected)
    assert (expected != 0).all()
    with pytest.raises(ValueError, match="no argument of this call is a tensor"):
        saplab.defend(nn.Identity(), NoisyInput())([x])


def test_hooks_see_names_and_act_on_copies(net: nn.Module, images: Tensor) -> None:
    seen = []

    @dataclass(frozen=True)
    class Nosy(Defense):
        random: ClassVar[bool] = False

        def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
            seen.append((where, draw.where, tuple(h.shape)))
            return h

        def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
            seen.append((where, draw.where, tuple(w.shape)))
            return w

    assert torch.equal(saplab.defend(net, Nosy(), parameters="5.*")(images), net(images))
    assert seen == [("5.weight", "5.weight", (3, 20)), ("5.bias", "5.bias", (3,)), ("2", "2", (6, 20)),
                    ("4", "4", (6, 20))]  # fmt: skip


def test_a_hook_s_numbers_take_the_type_of_what_it_changes(images: Tensor) -> None:
    net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    for dtype in (torch.bfloat16, torch.float64):
        assert saplab.defend(net.to(dtype), Everywhere())(images.to(dtype)).dtype == dtype


def test_a_hook_without_a_result_is_named(net: nn.Module, images: Tensor) -> None:
    @dataclass(frozen=True)
    class Forgets(Defense):
        def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
            h + 1  # type: ignore[return]

    with pytest.raises(TypeError, match=r"Forgets\.activation must return a tensor, got NoneType"):
        saplab.defend(net, Forgets())(images)

    @dataclass(frozen=True)
    class Empty(Defense):
        pass

    with pytest.raises(TypeError, match="Empty has none of the hooks"):
        saplab.defend(net, Empty())


def test_one_draw_for_all_must_be_declared(net: nn.Module, images: Tensor) -> None:
    @dataclass(frozen=True)
    class Silent(Defense):
        def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
            return h * draw.per_pass.bernoulli(0.5, h.shape[1:])

    with pytest.raises(ValueError, match="the defence must say so by `shared = True`"):
        saplab.defend(net, Silent())(images)


# --- places ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spy(Defense):
    """Adds noise everywhere, and remembers it."""

    seen: ClassVar[list[Tensor]] = []

    def _noted(self, x: Tensor, own: Tensor) -> Tensor:
        self.seen.append(own.flatten()[:16].clone())
        return x + own

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        return self._noted(x, draw.normal(x.shape))

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return self._noted(h, draw.normal(h.shape))

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        return self._noted(w, draw.normal(w.shape))


@pytest.fixture
def spied() -> Iterator[list[Tensor]]:
    Spy.seen.clear()
    yield Spy.seen
    Spy.seen.clear()


def test_every_place_and_every_defence_draws_for_itself(spied: list[Tensor]) -> None:
    """Two defences; one input, two sites and two layers of one shape, in two passes: 2 · 5 · 2 sets of numbers."""
    layers = (nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    defended = saplab.defend(nn.Sequential(*layers), Spy(), Spy())
    for number in range(2):
        with drawing(rows(3, number)):
            defended(torch.zeros(3, 16))
    assert len(spied) == 20
    assert len({tuple(numbers.tolist()) for numbers in spied}) == 20


@pytest.mark.parametrize("defense", ["rnw:0.1", "rsw:0.1", "swp:100", "rna:0.1", "rsa:0.1", "dropout:0.5", "sap:100"])
def test_layers_and_positions_of_built_in_defences_draw_for_themselves(defense: str) -> None:
    """Twin layers and twin maps meet other draws; so does a defence that stands second."""
    (one,) = parse_defenses(defense)
    twins = nn.ModuleList([nn.Linear(30, 30, bias=False), nn.Linear(30, 30, bias=False)])
    twins[1].load_state_dict(twins[0].state_dict())

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twins = twins

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([F.relu(layer(x)) for layer in self.twins])

    x = torch.rand(4, 30, generator=torch.Generator().manual_seed(0))
    with drawing(rows(4)):
        first, second = saplab.defend(Twins(), one)(x)
    assert not torch.equal(first, second)
    nothing = saplab.RandomNoisyActivations(0.0)
    with drawing(rows(4)):
        behind = saplab.defend(Twins(), nothing, one)(x)
    assert not torch.equal(behind[0], first)


def test_the_parts_of_a_split_example_draw_for_themselves() -> None:
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    for defense in (Rounded(), saplab.SAP(100), saplab.Dropout(0.5), saplab.RandomNoisyActivations(0.1)):
        with drawing(rows(3)):
            out = saplab.defend(Parts(), defense)(torch.full((3, 4, 50), 0.3))
        assert len({tuple(part.tolist()) for part in out.flatten(0, 1)}) == 12


def test_small_sites_round_down() -> None:
    assert saplab.SAP(50).draws(3, "x") == 1
    assert saplab.SAP(50).draws(1, "x") == 0
    assert saplab.SAP({"x": 250}).draws(3, "x") == 7
    assert NoisyInput().draws(3, "x") == 0


# --- attacks ---------------------------------------------------------------------------------------------------------


def gradient(model: nn.Module, x: Tensor, rule: Any) -> Tensor:
    x = x.clone().requires_grad_()
    with drawing(rows(len(x)), rule):
        return torch.autograd.grad(model(x).square().sum(), x)[0]


@pytest.mark.parametrize("hook", ["input", "activation"])
def test_identity_passes_straight_through(hook: str, images: Tensor) -> None:
    """The gradient is exactly that of the rest of the network at the defended values, and forward nothing changes."""

    @dataclass(frozen=True)
    class Steps(Defense):
        pass

    def step(self: Any, x: Tensor, draw: Draw, *where: str) -> Tensor:
        return (3 * x + draw.uniform(x.shape)).floor()

    setattr(Steps, hook, step)
    last = initialise(nn.Linear(12, 3), 0)
    first = nn.ReLU() if hook == "activation" else nn.Identity()
    defended = saplab.defend(nn.Sequential(first, last), Steps())
    x = images.flatten(1)
    with drawing(rows(6)):
        stepped = defended[1]  # the layers are there as ever
        out = defended(x)
    with drawing(rows(6), "identity"):
        assert torch.equal(defended(x), out)
    assert stepped.weight is last.weight
    expected = (2 * out @ last.weight).detach()
    torch.testing.assert_close(gradient(defended, x, "identity"), expected, rtol=1e-6, atol=1e-6)
    assert (gradient(defended, x, "mask") == 0).all()


def test_where_a_defence_bends_nothing_the_rules_agree(net: nn.Module, images: Tensor) -> None:
    @dataclass(frozen=True)
    class Straight(NoisyInput):
        bends: ClassVar[bool] = False

    assert Everywhere().has_rules
    assert NoisyInput().has_rules
    assert not Straight().has_rules
    assert not NoisyWeights().has_rules
    for defense in (Straight(), NoisyWeights()):
        defended = saplab.defend(net, defense)
        assert torch.equal(gradient(defended, images, "mask"), gradient(defended, images, "identity"))


def test_parameters_get_the_gradient_of_what_a_weight_hook_does(images: Tensor) -> None:
    @dataclass(frozen=True)
    class Halved(Defense):
        random: ClassVar[bool] = False

        def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
            return w / 2

    linear = nn.Linear(12, 2)
    saplab.defend(linear, Halved(), backward="identity")(images.flatten(1)).sum().backward()
    torch.testing.assert_close(linear.weight.grad, images.flatten(1).sum(0).expand(2, 12) / 2)


@pytest.mark.parametrize("own", [NoisyInput(), Rounded(), NoisyWeights(), OneMask()])  # `Everywhere` leaves no signal
def test_attacks_see_other_draws_and_raise_the_loss(own: Defense, net: nn.Module, images: Tensor) -> None:
    labels = net(images).argmax(1)
    defended = saplab.defend(net, own, saplab.SAP(200))
    adversarial = saplab.PGD(saplab.MonteCarlo(8, "identity"), steps=5)(defended, images, labels, eps=0.3, seed=1)
    clean, attacked = (saplab.predict(defended, x, 100, seed=2)[range(6), labels] for x in (images, adversarial))
    assert attacked.mean() < clean.mean()


@pytest.mark.parametrize("own", [OneMask(), NoisyWeights(), Everywhere()])
def test_passes_that_share_a_draw_are_never_stacked(own: Defense, net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, own)
    assert shares_draws(defended)
    sizes: list[int] = []
    net_sizes = defended.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    ready(defended, images)
    sizes.clear()
    labels = torch.zeros(6, dtype=torch.int64)
    saplab.MonteCarlo(4).estimate(Problem.of(defended, images, labels))
    assert sizes == [6] * 4
    net_sizes.remove()
    with drawing(torch.cat([rows(3), rows(3, 1)])), pytest.raises(ValueError, match="mixes passes"):
        defended(images)
    stacked = saplab.defend(net, Rounded())
    stacked.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    ready(stacked, images)
    sizes.clear()
    assert not shares_draws(stacked)
    saplab.MonteCarlo(4).estimate(Problem.of(stacked, images, labels))
    assert sizes == [24]


# --- with PyTorch ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("rule", ["mask", "identity"])
@every_own
def test_compiled_passes_equal_eager_ones(own: Defense, rule: Any, net: nn.Module, images: Tensor) -> None:
    torch.compiler.reset()
    defended = saplab.defend(net, own)
    compiled = torch.compile(defended, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    outs = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for number in range(3):
            with drawing(rows(6, number), rule):
                x = images.clone()
                outs.append((compiled(x), defended(x)))
    torch.compiler.reset()
    for theirs, mine in outs:
        torch.testing.assert_close(theirs, mine, atol=1e-6, rtol=1e-5)
    assert not torch.equal(outs[0][0], outs[1][0])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("own", [NoisyInput(), Rounded()])
def test_vmap_is_refused_where_examples_would_share_draws(own: Defense, net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, own)
    with pytest.raises(ValueError, match=r"inside torch\.vmap"):
        torch.func.vmap(lambda image: defended(image.unsqueeze(0))[0])(images)


def test_sites_are_those_of_the_defended_input(images: Tensor) -> None:
    @dataclass(frozen=True)
    class Cropped(Defense):
        def input(self, x: Tensor, draw: Draw) -> Tensor:
            return x[..., :1, :]

    (site,) = saplab.sites(saplab.defend(nn.ReLU(), Cropped()), images)
    assert (site.shape, site.draws) == ((3, 1, 2), 0)


# --- without the defences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [lambda net: net, lambda net: nn.Sequential(net, nn.Identity())])
def test_undefended_is_the_network_itself(around: Any, net: nn.Module, images: Tensor) -> None:
    hooked = []
    net.register_forward_hook(lambda *_: hooked.append(1))
    defended = around(saplab.defend(net, saplab.SAP(50), NoisyInput(), saplab.RandomNoisyWeights(0.1)))
    expected = around(net)
    plain: Any = undefended(defended)
    assert type(plain) is nn.Sequential
    assert not is_random(plain)
    assert defenses_of(plain) == ()
    assert torch.equal(plain(images), expected(images))
    assert len(hooked) == 2  # its own hook is still there
    modules = list(plain.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks_always_called for module in modules)
    assert sum(len(module._forward_hooks) for module in modules) == 1
    assert not any(name.startswith("_saplab") for module in modules for name in vars(module))
    assert all(a is b for a, b in zip(plain.parameters(), net.parameters(), strict=True))
    assert list(plain.state_dict()) == list(expected.state_dict())
    assert is_random(defended)  # and stays as it was
    assert not torch.equal(defended(images), defended(images))


def test_undefended_networks_can_be_copied_pickled_and_defended_again(net: nn.Module, images: Tensor) -> None:
    plain = undefended(saplab.defend(net, saplab.SAP(50)))
    for twin in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert type(twin) is nn.Sequential
        assert torch.equal(twin(images), net(images))
    again, first = saplab.defend(plain, saplab.SAP(50), seed=3), saplab.defend(net, saplab.SAP(50), seed=3)
    assert torch.equal(again(images), first(images))
    assert undefended(net) is net


def test_parts_are_not_defended_twice(net: nn.Module) -> None:
    part = nn.Sequential(saplab.defend(net, saplab.SAP(50)), nn.ReLU())
    with pytest.raises(ValueError, match="defended already"):
        saplab.defend(part, saplab.SAP(50))


@dataclass(frozen=True)
class SaysStill(Defense):
    random = False
    std: float = 0.5

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        return x + self.std * draw.normal(x.shape)


def test_a_defence_that_draws_though_it_says_that_it_does_not_is_refused(net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, SaysStill())
    with pytest.raises(ValueError, match="says `random = False`, but its passes differ"):
        saplab.predict(defended, images, passes=5)
    with pytest.raises(ValueError, match="says `random = False`, but its passes differ"):
        saplab.evaluate(defended, images, torch.zeros(len(images)).long(), eps=0.1, progress=False)
    still = saplab.predict(saplab.defend(net, SaysStill(std=0.0)), images, passes=5)
    assert torch.equal(still, saplab.predict(net, images))

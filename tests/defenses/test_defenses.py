"""Sites are found wherever a network calls an activation function; a defended network is the same network."""

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saplab
from saplab.defenses import predict_with_votes
from saplab.defenses.drawing import drawing
from saplab.defenses.site_mode import MOST_DEFENSES
from saplab.defenses.stochastic import ready
from saplab.models.initialise import initialise
from saplab.models.preact_resnet import preact_resnet20
from saplab.models.resnet import resnet20
from saplab.pruning.operator import prune
from saplab.rng.streams import pass_streams, stream_key


class Perceptron(nn.Module):
    """Two hidden layers, one activation module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 32)
        self.second = nn.Linear(32, 32)
        self.last = nn.Linear(32, 3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x.flatten(1)))
        return self.last(self.act(self.second(h)))


class Calls(nn.Module):
    """One linear layer, then whatever a test wants to call."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.linear(x))


@pytest.fixture
def net() -> nn.Module:
    return initialise(Perceptron(), 0).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))


# --- sites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("relu", lambda x: F.relu(x)),
        ("relu", lambda x: F.relu(x, inplace=True)),
        ("relu", lambda x: F.relu(x, True)),
        ("relu", torch.relu),
        ("relu", torch.relu_),
        ("relu", lambda x: x.relu()),
        ("relu", lambda x: x.relu_()),
        ("relu", nn.ReLU()),
        ("relu", nn.ReLU(inplace=True)),
        ("relu", lambda x: x.clamp(min=0)),
        ("relu", lambda x: torch.clamp(x, 0)),
        ("relu", lambda x: x.clamp_(min=0)),
        ("relu", lambda x: x.clamp_min(0)),
        ("clamp", lambda x: x.clamp(0, 6)),
        ("hardtanh", nn.ReLU6()),
        ("relu6", F.relu6),
        ("gelu", nn.GELU()),
        ("gelu", lambda x: F.gelu(x, approximate="tanh")),
        ("silu", nn.SiLU()),
        ("silu", nn.SiLU(inplace=True)),
        ("sigmoid", torch.sigmoid),
        ("sigmoid", lambda x: F.sigmoid(x)),
        ("sigmoid", nn.Sigmoid()),
        ("tanh", lambda x: x.tanh()),
        ("tanh", nn.Tanh()),
        ("leaky_relu", nn.LeakyReLU(0.1)),
        ("leaky_relu", lambda x: F.leaky_relu(x, 0.1, True)),
        ("hardswish", nn.Hardswish()),
        ("hardsigmoid", nn.Hardsigmoid()),
        ("elu", nn.ELU()),
        ("prelu", nn.PReLU()),
        ("softplus", nn.Softplus()),
        ("mish", nn.Mish()),
    ],
)
def test_each_activation_function_is_one_site(function: str, call: Callable[[Tensor], Tensor]) -> None:
    model = initialise(Calls(call), 1).eval()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    (site,) = saplab.sites(model, x)
    assert site.function == function
    assert (site.shape, site.activations) == ((6,), 6)
    many = saplab.defend(model, saplab.SAP(1e9))
    torch.testing.assert_close(many(x), model(x))
    few = saplab.defend(model, saplab.SAP(50))
    assert not torch.allclose(few(x), model(x))


def test_functions_that_are_no_activations_are_left_alone() -> None:
    model = Calls(lambda x: x.clamp(min=-1).clamp(max=0).abs() + torch.softmax(x, 1))
    with pytest.raises(ValueError, match="no activation function"):
        saplab.sites(model, torch.randn(2, 6))


def test_in_place_call_whose_result_is_dropped_is_pruned() -> None:
    def drop(x: Tensor) -> Tensor:
        x.relu_()
        return x

    model = initialise(Calls(drop), 1)
    defended = saplab.defend(model, saplab.SAP(20))
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    kept = (defended(x) != 0).sum(1)
    assert kept.max() == 1  # int(0.2 · 6) = one draw
    defended(x).sum().backward()


def test_module_called_twice_is_two_sites(net: nn.Module, images: Tensor) -> None:
    assert [site.name for site in saplab.sites(net, images)] == ["act", "act#2"]


def test_sites_of_the_two_resnets() -> None:
    x = torch.rand(1, 3, 32, 32)
    assert len(saplab.sites(preact_resnet20().eval(), x)) == 19
    table = saplab.sites(saplab.defend(resnet20().eval(), saplab.SAP(50)), x)
    assert len(table) == 19
    assert all(site.draws == site.activations // 2 for site in table)
    assert repr(table).splitlines()[0].split() == ["#", "site", "function", "shape", "activations", "draws"]


def test_pattern_selects_sites(net: nn.Module, images: Tensor) -> None:
    first, second = (saplab.defend(net, saplab.SAP(50), sites=pattern) for pattern in (["act"], "act#*"))
    assert [site.index for site in saplab.sites(first, images)] == [0]
    assert [site.index for site in saplab.sites(second, images)] == [1]
    with pytest.raises(ValueError, match=r"'act\?' selects none of the network's 2 sites: act, act#2"):
        saplab.defend(net, saplab.SAP(50), sites="act?")(images)


def test_selecting_a_site_leaves_its_draws_as_they_are() -> None:
    """The second site draws the same whether the first is defended (to no effect) or not."""
    model = initialise(Perceptron(), 0).eval()
    x = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    alone = saplab.defend(model, saplab.SAP(50), sites="act#2")
    assert torch.equal(alone(x), saplab.defend(model, saplab.SAP(50), sites=["act#2", "other"])(x))
    key = stream_key(0, "call")
    h = torch.relu(model.second(torch.relu(model.first(x.flatten(1)))))
    by_hand = prune(h, pass_streams(key, 0, torch.arange(5)), 16, site=MOST_DEFENSES)
    fresh = saplab.defend(model, saplab.SAP(50), sites="act#2")
    torch.testing.assert_close(fresh(x), model.last(by_hand))


# --- the defended network --------------------------------------------------------------------------------------------


def test_the_network_stays_as_it_is(net: nn.Module, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    dense, kind, hooks = net(images), type(net), len(net.act._forward_pre_hooks)
    defended = saplab.defend(net, saplab.SAP(50))
    defended.train()
    defended(images).sum().backward()
    assert type(net) is kind
    assert not net.training
    assert len(net.act._forward_pre_hooks) == hooks
    assert torch.equal(net(images), dense)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_keys_and_parameters_are_the_network_s_own(net: nn.Module) -> None:
    defended = saplab.defend(net, saplab.SAP(50))
    assert list(defended.state_dict()) == list(net.state_dict())
    assert all(a is b for a, b in zip(defended.parameters(), net.parameters(), strict=True))
    assert isinstance(defended, Perceptron)
    other = initialise(Perceptron(), 7).state_dict()
    defended.load_state_dict(other)
    assert torch.equal(net.first.weight, other["first.weight"])  # one set of parameters


def test_each_call_is_a_fresh_pass_and_the_seed_decides_it(net: nn.Module, images: Tensor) -> None:
    one, same, other = (saplab.defend(net, saplab.SAP(50), seed=s) for s in (0, 0, 1))
    first, second = one(images), one(images)
    assert not torch.equal(first, second)
    assert torch.equal(same(images), first)
    assert torch.equal(same(images), second)
    assert not torch.equal(other(images), first)


def test_training_mode_decides_nothing(net: nn.Module, images: Tensor) -> None:
    a, b = (saplab.defend(net, saplab.SAP(50)) for _ in range(2))
    assert torch.equal(a.train()(images), b.eval()(images))


def test_copy_and_pickle(net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(50), seed=3)
    defended(images)
    twins = [copy.deepcopy(defended), pickle.loads(pickle.dumps(defended))]
    expected = defended(images)
    for twin in twins:
        assert type(twin) is type(defended)
        assert torch.equal(twin(images), expected)
        assert twin.first.weight is not net.first.weight


def _in_child(model: nn.Module, images: Tensor, queue: Any) -> None:
    queue.put(saplab.predict(model, images, passes=3, seed=1).numpy())


def test_spawned_worker_gives_the_same_numbers() -> None:
    net = initialise(preact_resnet20(), 0).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    defended = saplab.defend(net, saplab.SAP(100))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(defended, images, queue))
    child.start()
    theirs = queue.get(timeout=120)
    child.join()
    torch.testing.assert_close(torch.from_numpy(theirs), saplab.predict(defended, images, 3, 1), atol=1e-6, rtol=0)


def test_gradients_reach_the_parameters(net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(200))
    defended(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_an_error_inside_leaves_no_trace(net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(50))
    with pytest.raises(RuntimeError):
        defended(images[:, :1])
    assert [site.name for site in saplab.sites(defended, images)] == ["act", "act#2"]


def test_not_finite_activations_name_their_site(net: nn.Module, images: Tensor) -> None:
    images[2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"site 'act': NaN or infinity in 1 of 5 maps, first in example 2"):
        saplab.defend(net, saplab.SAP(50))(images)


@pytest.mark.parametrize("percent", [0, -5, float("nan"), float("inf")])
def test_percent_must_be_positive(percent: float) -> None:
    with pytest.raises(ValueError, match="`percent` must be > 0"):
        saplab.SAP(percent)


def test_what_cannot_be_defended(net: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one defence"):
        saplab.defend(net)
    with pytest.raises(TypeError, match="an nn"):
        saplab.defend(lambda x: x, saplab.SAP(50))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="such as SAP"):
        saplab.defend(net, 100)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="defended already"):
        saplab.defend(saplab.defend(net, saplab.SAP(50)), saplab.SAP(50))
    with pytest.raises(ValueError, match="`seed` must be an integer >= 0"):
        saplab.defend(net, saplab.SAP(50), seed=-1)
    with pytest.raises(ValueError, match="no activation function"):
        saplab.defend(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), saplab.SAP(50))(images)
    with pytest.raises(ValueError, match=r"percent=1 gives no draw at site 'act' of 32 activations"):
        saplab.defend(net, saplab.SAP(1))(images)


def test_network_that_splits_examples_draws_for_each_part() -> None:
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.flatten(0, 1)).unflatten(0, x.shape[:2]).sum(1)

    defended = saplab.defend(Parts(), saplab.SAP(50))
    x = torch.rand(3, 4, 10, generator=torch.Generator().manual_seed(0))
    whole = saplab.predict(defended, x, passes=2, seed=0)
    halves = saplab.predict(defended, x, passes=2, seed=0, batch_size=2)
    assert torch.equal(whole, halves)


# --- prediction ------------------------------------------------------------------------------------------------------


def test_prediction_is_the_mean_softmax_of_its_passes(net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(50))
    key = stream_key(4)
    passes = []
    for number in range(3):
        with drawing(pass_streams(key, number, torch.arange(5))):
            passes.append(defended(images).softmax(1))
    prediction = predict_with_votes(defended, images, 3, 4)
    torch.testing.assert_close(prediction.probs, torch.stack(passes).mean(0))
    votes = torch.stack([F.one_hot(p.argmax(1), 3) for p in passes]).sum(0)
    assert torch.equal(prediction.votes, votes.int())


@pytest.mark.parametrize(("passes", "half"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_half_is_what_half_as_many_passes_say(net: nn.Module, images: Tensor, passes: int, half: int) -> None:
    defended = saplab.defend(net, saplab.SAP(50))
    found = predict_with_votes(defended, images, passes, 4)
    assert torch.equal(found.half, predict_with_votes(defended, images, half, 4).probs)
    assert torch.equal(found.single, predict_with_votes(defended, images, 1, 4).probs)


def test_prediction_depends_on_each_example_alone(net: nn.Module, images: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(50))
    whole = saplab.predict(defended, images, passes=4, seed=1)
    defended(images)  # what ran before does not matter
    close = {"atol": 1e-6, "rtol": 0.0}  # the linear layers' own rounding
    torch.testing.assert_close(saplab.predict(defended, images, passes=4, seed=1, batch_size=2), whole, **close)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = saplab.predict(defended, images[order], passes=4, seed=1, examples=order)
    torch.testing.assert_close(shuffled, whole[order], **close)


def test_a_network_without_randomness_runs_once(net: nn.Module, images: Tensor) -> None:
    calls: list[int] = []
    net.register_forward_hook(lambda *args: calls.append(1))
    ready(net, images)
    calls.clear()
    prediction = predict_with_votes(net, images, 100, 0)
    assert len(calls) == 1
    assert prediction.votes.sum(1).tolist() == [100] * 5
    torch.testing.assert_close(prediction.probs, net(images).softmax(1))


def test_predictions_that_cannot_be_made(net: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        saplab.predict(net, images[:0])
    with pytest.raises(ValueError, match="`passes` must be >= 1, got 0"):
        saplab.predict(net, images, passes=0)
    with pytest.raises(ValueError, match="must return a tensor of logits"):
        saplab.predict(Calls(lambda x: (x, x)), torch.rand(2, 6))  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="must return logits"):
        saplab.predict(Calls(lambda x: x.sum(1)), torch.rand(2, 6))
    with pytest.raises(ValueError, match=r"training mode \(layer 'bn1'\)|training mode"):
        saplab.predict(preact_resnet20().train(), torch.rand(1, 3, 32, 32))


def test_many_passes_of_a_linear_tail_average_to_the_dense_network() -> None:
    """SAP is unbiased, so with one site and linear layers behind it the mean of the logits is the dense one."""
    model = initialise(nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 3)), 0)
    defended = saplab.defend(model, saplab.SAP(100))
    x = torch.rand(1, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = defended(x.expand(20_000, 12))
        error = (z.mean(0) - model(x)[0]).abs() / (z.std(0) / 20_000**0.5)
    assert error.max() < 4  # standard errors

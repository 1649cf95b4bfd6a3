"""Habits of other people's networks and defences: writing into the input, hooks around the network, kept values."""

import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import saplab
from saplab.defenses.parallel import may_run_in_threads
from saplab.models.initialise import initialise

IMAGES = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 5


class Linear(nn.Module):
    """Centres its images, in place or not."""

    def __init__(self, in_place=False):
        super().__init__()
        self.fc, self.in_place = nn.Linear(48, 5), in_place

    def forward(self, x):
        return self.fc((x.sub_(0.5) if self.in_place else x - 0.5).flatten(1))


def made(net):
    return initialise(net, seed=0).eval()


# Writing into what is given


def test_a_network_that_writes_into_its_input_is_judged_as_another_and_leaves_the_images():
    images = IMAGES.clone()
    own, usual = made(Linear(in_place=True)), made(Linear())
    assert torch.equal(saplab.predict(own, images), saplab.predict(usual, images))
    attack = saplab.PGD(steps=3)
    assert torch.equal(attack(own, images, LABELS, eps=0.1), attack(usual, images, LABELS, eps=0.1))
    found = [
        saplab.evaluate(net, images, LABELS, ["pgd:steps=2", "square:queries=4"], 0.1, progress=False).rows
        for net in (own, usual)
    ]
    assert [row["averaged_percent"] for row in found[0]] == [row["averaged_percent"] for row in found[1]]
    saplab.sites(nn.Sequential(nn.ReLU(inplace=True), own), images)
    assert torch.equal(images, IMAGES)


@dataclass(frozen=True)
class Shifts(saplab.Defense):
    random = False

    def input(self, x, draw):
        return x.add_(0.1)


@dataclass(frozen=True)
class Shrinks(saplab.Defense):
    random = False

    def weight(self, w, draw, where):
        with torch.no_grad():
            return w.mul_(0.9)


@pytest.mark.parametrize("defense", [Shifts(), Shrinks()])
def test_a_hook_that_writes_into_what_it_is_given_is_refused(defense):
    with pytest.raises(ValueError, match=rf"{type(defense).__name__}\.\w+ must not write into what it is given"):
        saplab.predict(saplab.defend(made(Linear()), defense), IMAGES)


# Around the network


def test_draws_of_a_network_s_own_hooks_are_keyed_inside_a_sequence():
    net = made(Linear())
    net.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.5 * torch.randn_like(inputs[0]),))
    inside = nn.Sequential(net).eval()
    assert torch.equal(saplab.predict(inside, IMAGES, 3), saplab.predict(inside, IMAGES, 3))


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Linear()

    def __call__(self, x):
        return self.net(x)


def test_a_call_that_passes_by_forward_is_refused():
    with pytest.raises(ValueError, match="Calls has a `__call__` of its own, which passes by its forward"):
        saplab.defend(made(Calls()), saplab.GaussianNoise(0.5))


def test_inside_inference_mode_attacks_are_refused():
    net = made(Linear())
    with torch.inference_mode():
        assert saplab.predict(net, IMAGES).shape == (16, 5)
        for attack in (
            lambda: saplab.evaluate(net, IMAGES, LABELS, "pgd", 0.1),
            lambda: saplab.PGD()(net, IMAGES, LABELS, 0.1),
        ):
            with pytest.raises(ValueError, match=r"torch\.inference_mode\(\) forbids: call this outside of it"):
                attack()


# Values kept for later


class Box:
    value = None


class Keeps(Linear):
    """Keeps a value of the pass somewhere, for as long as it takes to be mixed up with that of another thread."""

    def __init__(self, where):
        super().__init__()
        self.where, self.kept, self.box, self.mean = where, {"m": None}, Box(), None

    def forward(self, x):
        mean = x.mean((1, 2, 3), keepdim=True)
        if self.where == "dict":
            self.kept["m"] = mean
        elif self.where == "object":
            self.box.value = mean
        else:
            self.mean = mean
        time.sleep(0.002)
        kept = {"dict": self.kept["m"], "object": self.box.value, "attribute": self.mean}[self.where]
        self.mean = None if self.where == "attribute" else self.mean
        return self.fc((x - kept).flatten(1))


@pytest.mark.parametrize("where", ["dict", "object", "attribute"])
def test_a_network_that_keeps_values_of_a_pass_stays_on_one_thread(where):
    net, usual = made(Keeps(where)), made(Linear())
    columns = (IMAGES, torch.arange(16))
    assert may_run_in_threads(usual, lambda x, _: (usual(x),), columns)
    assert not may_run_in_threads(net, lambda x, _: (net(x),), columns)


class InLargeBatches(Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0) if len(x) >= 64 else x)


def test_what_an_evaluation_has_seen_does_not_vouch_for_larger_batches():
    net = made(InLargeBatches())
    saplab.evaluate(net, IMAGES, LABELS, "noise", 0.1, progress=False)
    with pytest.raises(ValueError, match="depends on the rest of its batch"):
        saplab.predict(net, IMAGES.repeat(8, 1, 1, 1))


# Numbers of other kinds


def test_numbers_of_numpy_are_numbers():
    net = made(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)))
    one, other = (
        saplab.defend(net, saplab.SAP(number), seed=seed) for number, seed in ((50, 3), (np.int64(50), np.int64(3)))
    )
    assert torch.equal(one(IMAGES), other(IMAGES))


@pytest.mark.parametrize("attack", ["pgd:steps=2", "square:queries=4"])
def test_the_default_dtype_of_others_changes_nothing(attack):
    net = made(Linear())
    expected = saplab.evaluate(net, IMAGES, LABELS, attack, 0.1, progress=False).rows
    try:
        torch.set_default_dtype(torch.float64)
        found = saplab.evaluate(net, IMAGES, LABELS, attack, 0.1, progress=False).rows
    finally:
        torch.set_default_dtype(torch.float32)
    assert [row["averaged_percent"] for row in found] == [row["averaged_percent"] for row in expected]


def test_clean_accuracy_is_measured_where_attacks_bring_their_own_radii():
    rows = saplab.evaluate(made(Linear()), IMAGES, LABELS, "pgd:steps=2,eps=0.1", 0.2, progress=False).rows
    assert [row["eps"] for row in rows] == [0, 0.1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: saplab.predict(net, IMAGES, batch_size=0), "`batch_size` must be >= 1, got 0"),
        (
            lambda net: saplab.evaluate(net, IMAGES, LABELS, "noise", seed=1.5),
            "`seed` must be an integer >= 0, got 1.5",
        ),
        (lambda net: saplab.evaluate(net, IMAGES, LABELS, "noise", seeds=0), "`seeds` must be >= 1, got 0"),
        (lambda net: saplab.verdict({"pgd": {8: np.ones(16)}}), "`eps` must be within .* write 8 / 255"),
        (lambda net: saplab.verdict({"pgd": {float("nan"): np.ones(16)}}), "`eps` must"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(made(Linear()))


def test_one_logit_is_no_class():
    net = made(nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0)))
    with pytest.raises(ValueError, match=r"the network must return logits"):
        saplab.evaluate(net, IMAGES, LABELS % 2, "noise", 0.1, progress=False)


def test_examples_may_be_a_list():
    net = saplab.defend(made(Linear()), saplab.GaussianNoise(0.1))
    numbers = list(range(100, 116))
    assert torch.equal(
        saplab.predict(net, IMAGES, 2, examples=numbers), saplab.predict(net, IMAGES, 2, examples=torch.tensor(numbers))
    )


@pytest.mark.parametrize("numbers", [[-1, *range(15)], [2**32, *range(15)], [float(k) for k in range(16)]])
def test_numbers_that_would_be_anothers_are_refused(numbers):
    net = saplab.defend(made(Linear()), saplab.GaussianNoise(0.1))
    with pytest.raises(ValueError, match="`examples` must be 16 integers within"):
        saplab.predict(net, IMAGES, 2, examples=torch.tensor(numbers))

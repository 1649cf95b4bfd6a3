"""What was found out about a network is found out again where the network may have become another, and only there."""

import pytest
import random_networks as nets
import torch
from torch import nn

import saplab
from saplab.defenses import stochastic

IMAGES = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(3))


class Settings(nets.Net):
    def __init__(self):
        super().__init__()
        self.number, self.zero, self.text, self.pair, self.nothing = 1, 0.0, "a", (1, 2), None
        self.names, self.bands, self.scale, self.inner = ["a"], {"a": [0.1]}, torch.zeros(2), nets.Holder([0.1])
        self.act = nn.Hardtanh()


def changed(name, value):
    return lambda net: setattr(net, name, value)


CHANGES = {
    "nothing": (lambda net: None, 1),
    "a parameter": (lambda net: net.linear.weight.data.add_(1), 1),  # training changes the numbers, not their nature
    "number": (changed("number", 2), 2),
    "kind of a number": (changed("number", True), 2),
    "sign of zero": (changed("zero", -0.0), 2),
    "text": (changed("text", "b"), 2),
    "tuple": (changed("pair", (1, 3)), 2),
    "kind inside a tuple": (changed("pair", (1, 2.0)), 2),
    "None": (changed("nothing", 0), 2),
    "list in place": (lambda net: net.names.append("b"), 2),
    "inside a dict": (lambda net: net.bands["a"].append(0.2), 2),
    "tensor in place": (lambda net: net.scale.data.add_(1), 2),
    "inside an object": (lambda net: net.inner.generator.append(0.2), 2),
    "another parameter": (lambda net: setattr(net.linear, "weight", nn.Parameter(torch.ones(5, 48))), 2),
    "a module's setting": (changed("act", nn.Hardtanh(-2, 2)), 2),
    "mode": (lambda net: net.act.train(), 2),
    "hook": (lambda net: net.act.register_forward_hook(lambda *call: None), 2),
    "hook of a random kind": (lambda net: net.register_forward_hook(lambda m, a, out: out + torch.randn_like(out)), 2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("defended", [False, True])
def test_a_network_is_rehearsed_again_after(change, defended, monkeypatch):
    rehearsals = []
    observe = stochastic.observe
    monkeypatch.setattr(stochastic, "observe", lambda *call: rehearsals.append(1) or observe(*call))
    net = Settings().eval()
    net = saplab.defend(net, saplab.GaussianNoise(0.1)) if defended else net
    run, count = CHANGES[change]
    saplab.predict(net, IMAGES, passes=1)
    saplab.predict(net, IMAGES[:3], passes=1)
    run(net)
    saplab.predict(net, IMAGES, passes=1)
    assert len(rehearsals) == count


def test_a_larger_batch_than_before_is_rehearsed():
    net = nets.ByManyImages().eval()
    saplab.predict(net, IMAGES)
    with pytest.raises(ValueError, match="depends on the rest of its batch"):
        saplab.predict(net, torch.cat([IMAGES, IMAGES]))
    saplab.predict(net, torch.cat([IMAGES, IMAGES]), batch_size=8)

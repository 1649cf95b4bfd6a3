"""What makes a network another one: every setting, wherever it is kept; not what a pass leaves behind."""

import gc
import os
import random
import subprocess
import sys
import weakref
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.models.identity import network_digest
from saplab.models.initialise import initialise
from saplab.runs.networks import rehearsed
from saplab.system.source import contents_text

IMAGES = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))


@dataclass
class Inner:
    std: float = 0.1
    bands: dict[str, Any] = field(default_factory=dict)


class Slotted:
    __slots__ = ("std",)

    def __init__(self, std: float) -> None:
        self.std = std


Pair = namedtuple("Pair", ["low", "high"])


def scaled(factor: Any) -> Any:
    return lambda x: x * factor


def held_by(value: Any) -> str:
    net = nn.Identity()
    net.setting = value
    return network_digest(net)


DIFFERENT = {
    "tensor": (torch.zeros(3), torch.tensor([0.0, 0.0, 1e-3])),
    "type of a tensor": (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
    "array": (np.zeros(3), np.array([0.0, 0.0, 1e-3])),
    "shape of an array": (np.zeros((2, 3)), np.zeros((3, 2))),
    "number of NumPy's": (np.float32(0.1), np.float32(0.2)),
    "array of objects": (np.array([Inner(0.1)], dtype=object), np.array([Inner(0.2)], dtype=object)),
    "list": ([0.1, [0.2]], [0.1, [0.3]]),
    "order of a list": ([1, 2], [2, 1]),
    "tuple": ((1, torch.zeros(1)), (1, torch.ones(1))),
    "named tuple": (Pair(0, 1), Pair(0, 2)),
    "dict": ({"std": np.zeros(2)}, {"std": np.ones(2)}),
    "order of an OrderedDict": (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)),
    "set": ({1, 2}, {1, 3}),
    "dataclass": (Inner(0.1), Inner(0.2)),
    "inside a dataclass": (Inner(bands={"1": [Inner(0.1)]}), Inner(bands={"1": [Inner(0.2)]})),
    "object": (SimpleNamespace(std=0.1), SimpleNamespace(std=0.2)),
    "slots": (Slotted(0.1), Slotted(0.2)),
    "module in a list": ([nn.Hardtanh(0, 1)], [nn.Hardtanh(0, 2)]),
    "class": (nn.ReLU, nn.ELU),
    "function": (torch.sin, torch.cos),
    "function of NumPy's": (np.sin, np.cos),
    "lambda": (lambda x: x + 1, lambda x: x + 2),
    "captured tensor": (scaled(torch.ones(2)), scaled(torch.zeros(2))),
    "captured list": (scaled([1]), scaled([2])),
    "default": (lambda x, y=(0.1, [0]): x + y, lambda x, y=(0.1, [1]): x + y),
    "partial": (partial(torch.add, other=torch.zeros(1)), partial(torch.add, other=torch.ones(1))),
    "distribution": (torch.distributions.Normal(0.0, 0.1), torch.distributions.Normal(0.0, 0.2)),
    "method": (Inner(0.1).__eq__, Inner(0.2).__eq__),
    "private name": (SimpleNamespace(_std=0.1), SimpleNamespace(_std=0.2)),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
def test_another_setting_is_another_network(kind: str) -> None:
    one, other = map(held_by, DIFFERENT[kind])
    assert one != other


def test_private_attributes_and_hooks_count() -> None:
    def net(std: float = 0.1, hook: Any = None) -> str:
        found = nn.Identity()
        found._std = std  # type: ignore[assignment]
        if hook is not None:
            found.register_forward_hook(hook)
        return network_digest(found)

    def double(*call: Any) -> Any:
        return 2 * call[-1]

    def triple(*call: Any) -> Any:
        return 3 * call[-1]

    assert len({net(), net(0.2), net(hook=double), net(hook=triple)}) == 4
    assert net(hook=double) == net(hook=double)  # hooks are numbered on in a process


SAME = {
    "order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "addresses": ([SimpleNamespace(f=scaled([1]))], [SimpleNamespace(f=scaled([1]))]),
    "states of generators": (
        [random.Random(1), np.random.default_rng(1), torch.Generator().manual_seed(1)],
        [random.Random(2), np.random.default_rng(2), torch.Generator().manual_seed(2)],
    ),
    "memory": (np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)),
    "history": (torch.ones(2), torch.ones(2, requires_grad=True) * 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_what_decides_nothing_does_not_count(kind: str) -> None:
    one, other = map(held_by, SAME[kind])
    assert one == other


def test_a_value_may_hold_itself() -> None:
    def loop(std: float) -> Any:
        found = SimpleNamespace(std=std)
        found.again = [found]
        return found

    assert held_by(loop(1.0)) == held_by(loop(1.0)) != held_by(loop(2.0))


def test_another_process_finds_the_same() -> None:
    code = """if True:
        from torch import nn
        from saplab.models.identity import network_digest
        net = nn.Identity()
        net.setting = {"names": {"a", "b", "c"}, "f": print, "classes": [nn.ReLU, nn.ELU], "last": None}
        print(network_digest(net))"""
    seeds = ("1", "2")  # of the hashes of strings, by which sets are ordered
    found = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                       capture_output=True).stdout for seed in seeds
    }  # fmt: skip
    assert len(found) == 1


class Keeps(nn.Module):
    """Keeps what passes leave behind, in every way that people keep it."""

    def __init__(self, noise: bool = False) -> None:
        super().__init__()
        self.linear = initialise(nn.Linear(4, 3), 0)
        self.noise, self.std, self.calls, self.built = noise, [0.1], 0, False
        self.last: Tensor | None = None
        self.sizes: list[int] = []
        self.seen = {"rows": 0}
        self.register_buffer("mean", torch.zeros(3))

    @cached_property
    def scale(self) -> float:
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x.flatten(1)) * self.scale
        z = z + self.std[0] * torch.randn_like(z) if self.noise else z
        self.last, self.calls, self.built = z, self.calls + 1, True
        self.sizes.append(len(x))
        self.seen["rows"] += len(x)
        with torch.no_grad():
            self.mean.copy_(z.mean(0))
        return z


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("stochastic", [False, True])
def test_a_network_that_keeps_what_passes_leave_behind_stays_the_same(noise: bool, stochastic: bool) -> None:
    net: nn.Module = Keeps(noise).eval()
    net = saplab.Stochastic(net) if stochastic else net
    first = rehearsed(net, IMAGES)[0]
    assert first.random == noise
    net(IMAGES * 0.5)
    saplab.FGSM()(net, IMAGES, torch.zeros(4, dtype=torch.long), eps=0.1)
    assert rehearsed(net, IMAGES)[0] == first
    called = Keeps(noise).eval()
    called(IMAGES[:1])
    assert rehearsed(saplab.Stochastic(called) if stochastic else called, IMAGES)[0] == first


def test_a_changed_setting_changes_the_numbers_as_well() -> None:
    """What runs is a copy, made when the network was found to be random: it must follow what is changed later."""
    net = Keeps(noise=True).eval()
    first, *_ = rehearsed(net, IMAGES)
    before = saplab.predict(net, IMAGES, passes=2)
    net.std[0] = 3.0
    second, *_ = rehearsed(net, IMAGES)
    assert second.digest != first.digest
    assert not torch.equal(saplab.predict(net, IMAGES, passes=2), before)
    net.std[0] = 0.0
    net.noise = False
    assert not rehearsed(net, IMAGES)[0].random


def test_evaluations_of_a_changed_network_do_not_share_results() -> None:
    net = Keeps(noise=True).eval()
    labels = net.linear(IMAGES.flatten(1)).argmax(1)

    def cells() -> set[str]:
        asked = {"attacks": "fgsm", "eps": 0.1, "passes": 2, "samples": 1, "progress": False}
        found = saplab.evaluate(net, IMAGES, labels, **asked)
        return {cell.digest for cell in found.request.cells}

    first = cells()
    assert cells() == first
    net.std = [0.2]
    assert not first & cells()


def test_a_changed_file_that_a_network_s_module_imports_makes_it_another_one(tmp_path: Path) -> None:
    (tmp_path / "constants_of_mine.py").write_text("STD = 0.1")
    (tmp_path / "helpers_of_mine.py").write_text("from constants_of_mine import STD\ndef scale(x):\n    return x * STD")
    (tmp_path / "net_of_mine.py").write_text(
        "from torch import nn\nimport helpers_of_mine\nclass Net(nn.Module):\n"
        "    def forward(self, x):\n        return helpers_of_mine.scale(x)"
    )
    code = "import net_of_mine, saplab.models.identity as i; print(i.network_digest(net_of_mine.Net()))"

    def digest() -> bytes:
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True).stdout

    before = digest()
    assert digest() == before
    (tmp_path / "helpers_of_mine.py").write_text("from constants_of_mine import STD\ndef scale(x):\n    return x / STD")
    between = digest()
    assert between != before
    (tmp_path / "unrelated_of_mine.py").write_text("STD = 0.3")
    assert digest() == between
    (tmp_path / "constants_of_mine.py").write_text("STD = 0.2")
    assert digest() != between


class Beside(nn.Module):
    """Keeps a setting in the same place as what passes write."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.linear = initialise(nn.Linear(4, 3), 0)
        self.place = place
        self.table = {"std": 0.1, "calls": 0}
        self.row = [0.1, 0]
        self.space = SimpleNamespace(inner=Counted(), note="")
        self.history: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.table["calls"] += 1
        self.row[1] += 1
        self.space.inner.calls += 1
        z = self.linear(x.flatten(1))
        self.history[f"{len(self.history)}"] = z.detach()
        std = {"table": self.table["std"], "row": self.row[0], "space": self.space.inner.std}[self.place]
        return z + std * torch.randn_like(z)

    def set(self, std: float) -> None:
        self.table["std"] = self.row[0] = self.space.inner.std = std


class Counted:
    def __init__(self) -> None:
        self.std, self.calls = 0.1, 0


@pytest.mark.parametrize("place", ["table", "row", "space"])
def test_a_setting_beside_something_that_passes_write_counts(place: str) -> None:
    net = Beside(place).eval()
    first = rehearsed(net, IMAGES)[0]
    before = saplab.predict(net, IMAGES, passes=2)
    net(IMAGES)
    assert rehearsed(net, IMAGES)[0] == first
    assert rehearsed(Beside(place).eval(), IMAGES)[0] == first
    net.set(3.0)
    assert rehearsed(net, IMAGES)[0] != first
    assert not torch.equal(saplab.predict(net, IMAGES, passes=2), before)


SIGMA = 0.1
LIMITS = {"scale": 1.0, "calls": 0}
UNREAD = 0.1


def shaken(x: Tensor) -> Tensor:
    return x + SIGMA * torch.randn_like(x)


class Reads(nn.Module):
    """Reads its settings from its module, one of them through a function."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = initialise(nn.Linear(4, 3), 0)

    def forward(self, x: Tensor) -> Tensor:
        LIMITS["calls"] += 1
        return shaken(self.linear(x.flatten(1))) * LIMITS["scale"]


def test_a_changed_global_of_a_network_s_module_makes_it_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Reads().eval()
    first, before = rehearsed(net, IMAGES)[0], saplab.predict(net, IMAGES, passes=2)
    net(IMAGES)
    monkeypatch.setitem(globals(), "UNREAD", 3.0)
    assert rehearsed(net, IMAGES)[0] == first
    monkeypatch.setitem(globals(), "SIGMA", 3.0)
    second = rehearsed(net, IMAGES)[0]
    assert second != first
    assert not torch.equal(saplab.predict(net, IMAGES, passes=2), before)
    monkeypatch.setitem(LIMITS, "scale", 2.0)
    assert rehearsed(net, IMAGES)[0] not in (first, second)
    monkeypatch.setitem(globals(), "SIGMA", 0.0)
    assert torch.equal(saplab.predict(net, IMAGES), saplab.predict(Reads().eval(), IMAGES))


class Calls(Reads):
    """Reads a setting of its class, and runs a function that it holds."""

    std = 0.1
    offsets = torch.zeros(3)

    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x.flatten(1)) + self.std * torch.arange(3) + self.offsets
        return z if self.held is None else self.held(z)


def hooked() -> nn.Module:
    net = Calls()
    net.register_forward_hook(lambda module, args, output: shaken(output))
    return net


def replaced() -> nn.Module:
    net = Calls()
    own = net.forward
    net.forward = lambda x: shaken(own(x))  # type: ignore[method-assign]
    return net


ELSEWHERE = {
    "function in an attribute": (lambda: Calls(shaken), globals(), "SIGMA", 3.0),
    "hook": (hooked, globals(), "SIGMA", 3.0),
    "forward on the instance": (replaced, globals(), "SIGMA", 3.0),
    "attribute of the class": (Calls, Calls, "std", 3.0),
    "tensor of the class": (Calls, Calls, "offsets", torch.arange(3.0)),
    "method": (Calls, Calls, "forward", lambda self, x: -self.linear(x.flatten(1))),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_what_decides_from_elsewhere_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, place, name, value = ELSEWHERE[kind]
    net = make().eval()
    first, before = rehearsed(net, IMAGES)[0], saplab.predict(net, IMAGES, passes=2)
    assert rehearsed(make().eval(), IMAGES)[0] == first
    if isinstance(place, dict):
        monkeypatch.setitem(place, name, value)
    else:
        monkeypatch.setattr(place, name, value)
    assert rehearsed(net, IMAGES)[0] != first
    assert not torch.equal(saplab.predict(net, IMAGES, passes=2), before)


COUNT = 0
SHIFT = 0.0


@dataclass(frozen=True)
class Shifts(saplab.Defense):
    scale = 1.0

    def input(self, x: Tensor, draw: saplab.Draw) -> Tensor:
        global COUNT
        COUNT += 1
        return shifted(x) * self.scale + 0.1 * draw.normal(x.shape)


def shifted(x: Tensor) -> Tensor:
    return x + SHIFT


def driven(logits: Tensor, labels: Tensor) -> Tensor:
    return SHIFT - logits.gather(1, labels[:, None])[:, 0]


def test_constants_that_a_defence_or_a_loss_reads_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> tuple[str, str]:
        attack = saplab.FGSM(saplab.MonteCarlo(loss=driven))
        return str(Shifts.registry.encode(Shifts())), str(saplab.FGSM.registry.encode(attack))

    defence, attack = keys()
    monkeypatch.setitem(globals(), "COUNT", 7)  # which passes write
    assert keys() == (defence, attack)
    monkeypatch.setitem(globals(), "SHIFT", 1.0)
    assert keys()[0] != defence
    assert keys()[1] != attack
    monkeypatch.undo()
    monkeypatch.setattr(Shifts, "scale", 2.0)
    assert keys()[0] != defence


def test_what_a_replaced_method_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Calls().eval()
    rehearsed(net, IMAGES)
    monkeypatch.setattr(Calls, "forward", lambda self, x: shaken(self.linear(x.flatten(1))))
    first = rehearsed(net, IMAGES)[0]
    monkeypatch.setitem(globals(), "SIGMA", 3.0)
    assert rehearsed(net, IMAGES)[0] != first


def test_functions_that_were_looked_at_are_not_kept_alive() -> None:
    held = scaled(torch.ones(2))
    contents_text(held)
    seen = weakref.ref(held)
    del held
    gc.collect()
    assert seen() is None


TABLE = torch.tensor([1.0, 2.0])
SEEN: list[int] = []
CONFIG = {"std": 0.1}


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad


@dataclass(frozen=True)
class Looks(saplab.Defense):
    levels: ClassVar = [0.1, 0.2]

    def input(self, x: Tensor, draw: saplab.Draw) -> Tensor:
        SEEN.append(len(x))
        return looked_up(x) + self.levels[0] * draw.normal(x.shape)


def looked_up(x: Tensor) -> Tensor:
    return Rounded.apply(x * TABLE[0]) * CONFIG["std"]  # type: ignore[no-any-return]


def key_of(defense: saplab.Defense) -> str:
    return str(type(defense).registry.encode(defense))


def test_tables_and_code_that_a_defence_names_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cell of a notebook changes them, whose source is in no file."""
    first = key_of(Looks())
    monkeypatch.setitem(globals(), "SEEN", [1, 2])  # which passes write
    assert key_of(Looks()) == first
    changes: tuple[tuple[Any, str, Any], ...] = (
        (globals(), "TABLE", torch.tensor([1.0, 3.0])), (globals(), "CONFIG", {"std": 0.2}),
        (globals(), "looked_up", shifted), (Rounded, "backward", staticmethod(lambda ctx, grad: -grad)),
    )  # fmt: skip
    found = {first}
    for place, name, value in changes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(place, name, value) if isinstance(place, dict) else patch.setattr(place, name, value)
            found.add(key_of(Looks()))
        assert key_of(Looks()) == first
    assert len(found) == 1 + len(changes)


def test_backward_hooks_count() -> None:
    net, other, before = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    for one in (other, before):
        one.load_state_dict(net.state_dict())
    other.register_full_backward_hook(lambda module, grad, out: (-grad[0],))
    before.register_full_backward_pre_hook(lambda module, out: (-out[0],))
    assert len({network_digest(one) for one in (net, other, before)}) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_networks_are_told_apart_by_their_code_and_found_again(tmp_path: Path) -> None:
    def traced(factor: float) -> Any:
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(0.5)
        return torch.jit.trace(Times(net, factor), IMAGES)  # type: ignore[no-untyped-call]

    once, twice = traced(1.0), traced(2.0)
    torch.jit.save(once, tmp_path / "net.pt")  # type: ignore[no-untyped-call]
    again = [torch.jit.load(tmp_path / "net.pt") for _ in range(2)]  # type: ignore[no-untyped-call]
    assert network_digest(once) != network_digest(twice)
    assert network_digest(again[0]) == network_digest(again[1])


class Times(nn.Module):
    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Any:
        return self.net(x) * self.factor


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantized tensor:UserWarning")
def test_quantised_weights_count() -> None:
    nets = [nn.Sequential(nn.Linear(4, 2)) for _ in range(2)]
    quantised = [torch.ao.quantization.quantize_dynamic(net) for net in nets]
    assert len({network_digest(net) for net in quantised}) == 2
    assert network_digest(quantised[0]) == network_digest(torch.ao.quantization.quantize_dynamic(nets[0]))

"""docs/elsewhere.md as it stands: other libraries, training code and torch.export meet a defended network."""

import ast
import copy
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from contenders import ATTACKS, EOTPGD, EVERY_STEP, MODULES, Task
from suite import gradients
from torch import Tensor, nn

import saplab
from saplab.attacks import Problem
from saplab.defenses.drawing import drawing
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key

PAGE = Path(__file__).parents[2] / "docs" / "elsewhere.md"
FOREIGN = ("foolbox", "torchattacks", "pyautoattack", "art", "torchmetrics")
RULES = ("mask", "probability", "identity")

other_people_s_warnings = pytest.mark.filterwarnings(
    "ignore:Please import `gaussian_filter`:DeprecationWarning",  # Foolbox's import
)


def chapters() -> dict[str, str]:
    """Return the code under each heading of the page, its blocks in order."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    blocks = (re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for text in parts[1::2])
    return {title: "\n".join(code) for title, code in zip(parts[::2], blocks, strict=True)}


FIRST, *LATER = (title for title, code in chapters().items() if code)


def imported(code: str) -> set[str]:
    """Name the packages that the code imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def run(title: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(chapters()[title], f"{PAGE.name}: {title}", "exec"), names)
    return names


@pytest.fixture(scope="module")
def beginning() -> dict[str, Any]:
    """Return the names that the page's first chapter leaves behind."""
    return run(FIRST, {"__name__": "page"})


def test_the_page_has_its_chapters() -> None:
    packages = {title: imported(code) & set(FOREIGN) for title, code in chapters().items()}
    assert set().union(*packages.values()) == set(FOREIGN)
    assert not packages[FIRST]
    assert {"Training code", "torch.export"} <= set(LATER)


@other_people_s_warnings
@pytest.mark.parametrize("title", LATER)
def test_the_page_is_right(title: str, beginning: dict[str, Any]) -> None:
    for package in sorted(imported(chapters()[title]) & set(FOREIGN)):
        pytest.importorskip(package, reason=f"{package} is not installed (extra `peers`)")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        run(title, dict(beginning))


# --- benchmarks/peers.py and benchmarks/bench.py ----------------------------------------------------------------------


@other_people_s_warnings
@pytest.mark.parametrize("name", ATTACKS)
def test_peers_get_the_same_task(name: str) -> None:
    if name in MODULES:
        pytest.importorskip(MODULES[name], reason=f"{MODULES[name]} is not installed (extra `peers`)")
    images, labels = saplab.load_cifar10("sample")
    net = saplab.load_model("preact-resnet20-dense")
    task = Task(net, images[:4], labels[:4], 4 / 255, steps=2, samples=2, backward="identity", passes=2)
    with torch.random.fork_rng():
        adversarial = ATTACKS[name](task, 0)
    assert (adversarial - task.images).abs().max() <= 4 / 255 + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    passes = task.counts["gradient"] / len(task.images)
    assert passes == 2 * 2 if name in (EVERY_STEP, EOTPGD) else 0 < passes <= 2 * (2 + 1) * 2


@other_people_s_warnings
@pytest.mark.parametrize("name", gradients.GRADIENTS)
def test_peers_take_as_many_samples(name: str) -> None:
    if package := gradients.MODULES.get(name):
        pytest.importorskip(package, reason=f"{package} is not installed (extra `peers`)")
    images, labels = saplab.load_cifar10("sample")
    task = Task(saplab.load_model("preact-resnet20-dense"), images[:4], labels[:4], 0.0, 1, 3, "mask", 1)
    model = task.adversary(0)
    with torch.random.fork_rng():
        gradients.GRADIENTS[name](model, task.images, task.labels, task.samples)
    assert task.counts["gradient"] == 3 * 4


# --- the backward rule of direct calls -------------------------------------------------------------------------------


@pytest.fixture
def net() -> nn.Module:
    return initialise(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.GELU(), nn.Linear(30, 5)), 0)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 20, generator=torch.Generator().manual_seed(0))


def slope(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).square().sum(), x)[0]


@pytest.mark.parametrize("rule", RULES)
def test_direct_calls_follow_the_rule(rule: Any, net: nn.Module, x: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(60), seed=3, backward=rule)
    found = slope(defended, x)
    with drawing(pass_streams(stream_key(3, "call"), 0, torch.arange(6)), rule):
        assert torch.equal(slope(saplab.defend(net, saplab.SAP(60)), x), found)


def test_rules_on_one_site(x: Tensor) -> None:
    h = x.abs()
    gradients = {}
    for rule in RULES:
        leaf = h.clone().requires_grad_()
        out = saplab.defend(nn.ReLU(), saplab.SAP(50), seed=1, backward=rule)(leaf)
        (gradients[rule],) = torch.autograd.grad(out.sum(), leaf)
    assert torch.equal(gradients["identity"], torch.ones_like(h))
    torch.testing.assert_close(gradients["mask"], out.detach() / h)
    assert not torch.allclose(gradients["probability"], gradients["mask"])


def test_the_rule_changes_no_draw_and_stays_with_copies(net: nn.Module, x: Tensor) -> None:
    identity = saplab.defend(net, saplab.SAP(60), seed=3, backward="identity")
    twins = copy.deepcopy(identity), pickle.loads(pickle.dumps(identity))
    expected = slope(identity, x)
    assert all(torch.equal(slope(twin, x), expected) for twin in twins)
    assert torch.equal(identity(x), twins[0](x))
    mask = saplab.defend(net, saplab.SAP(60), seed=3)
    mask(x)
    assert torch.equal(mask(x), twins[1](x))


def test_the_attack_s_own_rule_decides_in_attacks(net: nn.Module, x: Tensor) -> None:
    def gradient(own: Any, rule: Any) -> Tensor:
        defended = saplab.defend(net, saplab.SAP(60), backward=rule)
        return saplab.MonteCarlo(3, own).estimate(Problem.of(defended, x.sigmoid(), labels)).gradient

    labels = torch.zeros(6, dtype=torch.int64)
    gradients = {(own, rule): gradient(own, rule) for own in RULES for rule in RULES}
    for own in RULES:
        assert torch.equal(gradients[own, "mask"], gradients[own, "identity"])
        assert torch.equal(gradients[own, "mask"], gradients[own, "probability"])
    assert not torch.equal(gradients["mask", "mask"], gradients["identity", "mask"])


def test_an_unknown_rule_is_refused(net: nn.Module) -> None:
    with pytest.raises(
        ValueError, match="`backward` must be one of mask, probability, identity, relaxed, got 'straight'"
    ):
        saplab.defend(net, saplab.SAP(60), backward="straight")  # type: ignore[arg-type]


# --- torch.export ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own(saplab.Defense):
    """A defence of the user's, with an input and an activation hook."""

    def input(self, x: Tensor, draw: saplab.Draw) -> Tensor:
        return x + 0.1 * draw.normal(x.shape)

    def activation(self, h: Tensor, draw: saplab.Draw, where: str) -> Tensor:
        return h * draw.bernoulli(0.5, h.shape) + draw.randint(0, 3, h.shape)


DEFENSES = {
    "own": (Own(),),
    "sap": (saplab.SAP(60),),
    "dropout": (saplab.Dropout(0.2),),
    "rsa": (saplab.RandomlyScaledActivations(0.3),),
    "rnw": (saplab.RandomNoisyWeights(0.1),),
    "swp+rna": (saplab.StochasticWeightPruning(100), saplab.RandomNoisyActivations(0.3)),
    "dwp": (saplab.DeterministicWeightPruning(50),),
}
ANY_BATCH = (({0: torch.export.Dim("batch")},),)


@pytest.mark.parametrize("defenses", DEFENSES.values(), ids=DEFENSES.keys())
def test_every_defence_can_be_exported(defenses: Any, net: nn.Module, x: Tensor) -> None:
    defended = saplab.defend(net, *defenses, seed=2)
    defended(x)  # pass 0; the program is pass 1
    program = torch.export.export(defended, (x,), dynamic_shapes=ANY_BATCH).module()
    twin = copy.deepcopy(defended)
    expected = defended(x)
    torch.testing.assert_close(program(x), expected)
    torch.testing.assert_close(program(x[:3]), expected[:3])
    torch.testing.assert_close(slope(program, x), slope(twin, x))


def test_an_exported_pass_keeps_its_rule(net: nn.Module, x: Tensor) -> None:
    slopes = []
    for rule in RULES:
        defended = saplab.defend(net, saplab.SAP(60), seed=2, backward=rule)
        slopes.append(slope(torch.export.export(defended, (x,)).module(), x))
        assert torch.equal(slopes[-1], slope(defended, x))
    assert not torch.allclose(slopes[0], slopes[2])


def test_a_program_can_be_saved(tmp_path: Path, net: nn.Module, x: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(60), seed=2)
    torch.export.save(torch.export.export(defended, (x,)), tmp_path / "pass.pt2")
    loaded = torch.export.load(tmp_path / "pass.pt2").module()
    assert torch.equal(loaded(x), defended(x))


def test_strict_export_is_refused(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported, match="_begin_in_graph"):
        torch.export.export(saplab.defend(net, saplab.SAP(60)), (x,), strict=True)

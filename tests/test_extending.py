"""A defence, an attack and an engine of a user's, one file each outside the package, go wherever saplab's own do."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import saplab
from saplab.runs.engines.base import Computed, Options, make_engine
from saplab.system.errors import EvaluationError

DEFENSES = """
from dataclasses import dataclass
import saplab

@saplab.register("mine-input")
@dataclass(frozen=True)
class Input(saplab.Defense):
    std: float
    def input(self, x, draw):
        return x + self.std * draw.normal(x.shape)

@saplab.register("mine-activation")
@dataclass(frozen=True)
class Activation(saplab.Defense):
    rate: float = 0.1
    def activation(self, h, draw, where):
        return h * draw.bernoulli(1 - self.rate, h.shape)

@saplab.register("mine-weight")
@dataclass(frozen=True)
class Weight(saplab.Defense):
    std: float
    def weight(self, w, draw, where):
        return w + self.std * draw.normal(w.shape)
"""
ATTACK = '''
from dataclasses import dataclass
import saplab
from saplab.attacks import Cost

@saplab.register("corner")
@dataclass(frozen=True)
class Corner(saplab.Attack):
    """Every pixel moves up by eps."""

    knowledge = "nothing"
    title = "the corner"
    sign: float = 1.0

    def ascending(self, problem, radii):
        return (problem.project(problem.images + self.sign * eps, eps) for eps in radii)

    def cost(self, eps):
        return Cost(0, 0)
'''
ENGINE = """
import saplab
from saplab.runs.engines.base import Computed
from saplab.runs.cell import work_of

@saplab.register_engine("backwards")
def backwards(options):
    def engine(todo, inputs, tick):
        for group in reversed(todo):
            yield Computed(group, inputs.compute(group, lambda n: None))
            tick(work_of(group))
    return engine
"""
NETWORK = """
import torch
from torch import nn

def small():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return net.eval()
"""
STUDY = """
[[figure]]
name = "theirs"
strengths = [0, 8]
[[figure.line]]
label = "plain"
model = "theirnet:small"
attack = "corner"
[[figure.line]]
label = "with input noise"
model = "theirnet:small"
defense = "mine-input:0.05"
attack = "pgd:steps=2"
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with the modules of a user, where saplab is used."""
    folder = tmp_path_factory.mktemp("outside")
    files = {"theirdefenses": DEFENSES, "theirattack": ATTACK, "theirengine": ENGINE, "theirnet": NETWORK}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "study.toml").write_text(STUDY)
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", images=rng.random((12, 3, 8, 8), np.float32), labels=rng.integers(0, 3, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        for name in files:
            importlib.import_module(name)
        yield folder


@pytest.fixture(scope="module")
def images(outside):
    data = np.load(outside / "data.npz")
    return data["images"], data["labels"]


@pytest.fixture(scope="module")
def defended(outside):
    import theirnet

    text = "mine-input:0.02+mine-activation:0.2+mine-weight:0.01"
    return saplab.defend(theirnet.small(), *saplab.defenses.parse_defenses(text))


def evaluate(network, images, **settings):
    attacks = ("corner:-1", "pgd:steps=2,backward=identity")
    return saplab.evaluate(network, *images, attacks=attacks, eps=8 / 255, passes=3, samples=2, progress=False,
                           **{"batch_size": 5, **settings})  # fmt: skip


def test_all_of_them_go_through_an_evaluation_its_folder_and_its_report(defended, images, tmp_path):
    found = evaluate(defended, images, out=tmp_path / "run")
    labels = {row["curve"] for row in found.rows}
    name = "MINE-INPUT-0.02+MINE-ACTIVATION-0.2+MINE-WEIGHT-0.01"
    assert f"{name}: the corner sign=-1.0" in labels
    assert f"{name}: PGD-2 ×2 identity" in labels
    assert saplab.load(tmp_path / "run").rows == found.rows
    page = found.report().files[0].read_text(encoding="utf-8")
    assert "the corner" in page
    assert name in page
    assert found.verdict.sentence


@pytest.mark.parametrize("how", [{"workers": 2}, {"engine": "backwards"}, {"engine": "theirengine:backwards"}])
def test_any_engine_gives_the_same_numbers(defended, images, how):
    torch.set_num_threads(1)
    assert evaluate(defended, images, **how).rows == evaluate(defended, images).rows


def test_a_study_names_them(outside, tmp_path, capsys):
    from saplab.cli import app

    app(["reproduce", "study.toml", "--data", "data.npz", "--preset", "smoke", "--limit", "12", "--out",
         str(tmp_path / "study")], standalone_mode=False)  # fmt: skip
    assert (tmp_path / "study" / "report.html").is_file()
    assert "with input noise" in (tmp_path / "study" / "results.md").read_text(encoding="utf-8")


def test_the_command_line_names_a_class_by_its_module(outside, tmp_path, capsys):
    from saplab.cli import app

    app(["evaluate", "--model", "theirnet:small", "--data", "data.npz", "--defense", "theirdefenses:Input(std=0.05)",
         "--attack", "theirattack:Corner(sign=-1.0)", "--lambda", "8", "--passes", "2", "--out", str(tmp_path / "run")],
        standalone_mode=False)  # fmt: skip
    assert saplab.load(tmp_path / "run").rows


def test_a_failing_part_of_the_users_is_named(outside, images):
    class Broken(nn.Module):
        def forward(self, x):
            if len(x) > 3:  # more than a rehearsal needs
                raise OSError("the disk of the network is gone")
            return torch.zeros(len(x), 3)

    with pytest.raises(EvaluationError, match="the disk of the network is gone"):
        saplab.evaluate(Broken().eval(), *images, attacks="corner", progress=False)


def test_an_unknown_engine_is_named():
    with pytest.raises(ValueError, match=r"`engine` must be one of local, ray.* got 'fast'"):
        make_engine("fast", Options())


def test_the_package_itself_was_not_touched(outside):
    assert Path(saplab.__file__).parent.name == "saplab"
    assert Computed.__module__ == "saplab.runs.engines.base"

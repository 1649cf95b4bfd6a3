"""Defences of the image go wherever others go: evaluations, verdicts, workers, the command line and studies."""

import importlib
import sys

import numpy as np
import pytest
import torch

import saplab
from saplab.defenses import parse_defenses

NETWORK = """
import torch
from torch import nn
from saplab.models.initialise import initialise

def small():
    return initialise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                                    nn.Linear(32, 3)), 0).eval()

def fixed():
    return initialise(nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.ReLU()), 0).eval()
"""
STUDY = """
[[figure]]
name = "input"
strengths = [0, 8]
[[figure.line]]
label = "plain"
model = "poolednet:small"
attack = "pgd:steps=2"
[[figure.line]]
label = "in a random place"
model = "poolednet:small"
defense = "resize-pad:shared=true"
attack = "pgd:steps=2"
"""
ATTACKS = ("pgd:steps=3", "pgd:steps=3,backward=identity", "fgsm:adversary=dense", "square:queries=4,passes=2")


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "poolednet.py").write_text(NETWORK)
    (folder / "study.toml").write_text(STUDY)
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", images=rng.random((10, 3, 16, 16), np.float32), labels=rng.integers(0, 3, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        yield importlib.import_module("poolednet")


def evaluated(net, text, **settings):
    data = np.load("data.npz")
    defended = saplab.defend(net, *parse_defenses(text))
    return saplab.evaluate(defended, data["images"], data["labels"], ATTACKS, eps=8 / 255, passes=3, samples=4,
                           progress=False, **{"batch_size": 4, **settings})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "attack", "random"),
    [
        ("gaussian-noise:0.12", "Gaussian noise 0.12", "PGD-3 ×4", True),
        ("resize-pad", "resize and pad", "PGD-3 ×4", True),
        ("random-crop:share=0.5,shared=true", "random crop share=0.5 shared=true", "PGD-3 ×4", True),
        ("bit-depth", "bit depth 3", "PGD-3", False),
        ("stochastic-rounding", "stochastic rounding 8", "PGD-3 ×4", True),
        ("jpeg", "JPEG", "PGD-3 ×4", True),
        ("jpeg:low=75,high=75", "JPEG low=75 high=75", "PGD-3", False),
    ],
)
def test_attacks_and_questions_fit_the_defence(outside, text, name, attack, random):
    """Rules are no choice, so both PGDs are one curve; without draws there is one sample and no question about them."""
    found = evaluated(outside.small(), text)
    own = {row["curve"] for row in found.rows if row["curve"].startswith(f"{name}: ")}
    black_box = next(curve for curve in own if "Square" in curve)
    assert own == {f"{name}: {attack}", f"{name}: transfer FGSM", black_box}
    asked = {check.key for check in found.verdict.checks}
    assert not asked & {"identity", "norm"}
    assert asked & {"samples", "cosine"} == ({"samples", "cosine"} if random else set())
    assert "transfer" in {check.key for check in found.verdict.checks if check.outcome != "not run"}
    advised = next(check for check in found.verdict.checks if check.key == "black-box").how.attack
    assert advised.startswith("pgd")  # three steps are no match for a black box;
    assert "steps=" not in advised  # 20 are, which need no word


def test_beside_a_pruning_defence_the_rules_are_a_choice_again(outside, tmp_path):
    found = evaluated(outside.small(), "sap:100+jpeg")
    curves = {row["curve"] for row in found.rows}
    assert {"SAP-100+JPEG: PGD-3 ×4 mask", "SAP-100+JPEG: PGD-3 ×4 identity"} <= curves
    assert {"identity", "samples"} <= {check.key for check in found.verdict.checks}
    assert "SAP-100+JPEG" in found.report(tmp_path).files[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["sap:100+jpeg", "resize-pad"])
def test_workers_give_the_same_numbers(outside, text):
    torch.set_num_threads(1)
    assert evaluated(outside.small(), text, workers=2).rows == evaluated(outside.small(), text).rows


def test_the_command_line_and_a_study_name_them(outside, tmp_path, capsys):
    from saplab.cli import app

    app(["evaluate", "--model", "poolednet:small", "--data", "data.npz", "--defense", "sap:100+jpeg:low=30,high=60",
         "--attack", "pgd:steps=2", "--lambda", "8", "--passes", "2", "--out", str(tmp_path / "run")],
        standalone_mode=False)  # fmt: skip
    assert "SAP-100+JPEG low=30 high=60: PGD-2" in "".join(row["curve"] for row in saplab.load(tmp_path / "run").rows)
    app(["reproduce", "study.toml", "--data", "data.npz", "--preset", "smoke", "--limit", "10", "--out",
         str(tmp_path / "study")], standalone_mode=False)  # fmt: skip
    assert "in a random place" in (tmp_path / "study" / "results.md").read_text(encoding="utf-8")


def test_a_network_that_takes_no_larger_images_is_refused_by_name(outside):
    with pytest.raises(
        ValueError, match=r"the network behind resize and pad cannot take torch.float32 images of shape \(3, 16"
    ):
        evaluated(outside.fixed(), "resize-pad")
    assert evaluated(outside.fixed(), "resize-pad:low=0.8,canvas=1").rows

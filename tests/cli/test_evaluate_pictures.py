"""``saplab evaluate`` on a folder of the user's own pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from torchvision_operators import declare_torchvision_operators

from saplab.cli import app

Image = pytest.importorskip("PIL.Image", reason="Pillow belongs to the extra 'vision'")
declare_torchvision_operators()

FACTORY = """
from torch import nn
from saplab.models.initialise import initialise

def small():
    return initialise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)), 0)
"""


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, place in enumerate(("ant/0", "cat/0", "cat/1", "cat/2")):
        pixels = np.random.default_rng(seed).integers(0, 256, (14 + seed, 20, 3), dtype=np.uint8)
        file = tmp_path / "pictures" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    (tmp_path / "pictured.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "defense",
    ["sap:100", "dropout:0.1", "rnw:0.01", "rsw:0.01", "dwp:50", "swp:100", "rna:0.01", "rsa:0.01", "sap:50+rnw:0.01"],
)
def test_every_defence_is_evaluated_on_pictures(defense: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "pictured:small", "--data", "pictures", "--image-size", "12", "--defense", defense]
    options = ["--attack", "fgsm", "--lambda", "0,4", "--samples", "2", "--passes", "2", "--out", "out", "--json"]
    app(["evaluate", *words, *options], standalone_mode=False)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 4  # two curves, two strengths


def test_evaluate_needs_a_size() -> None:
    with pytest.raises(ValueError, match="`image-size` must be given"):
        app(["evaluate", "--model", "pictured:small", "--data", "pictures"], standalone_mode=False)


def test_a_hubs_network_brings_its_own_cut(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm", reason="timm belongs to the extra 'vision'")
    words = ["--model", "timm:mobilenetv3_small_050?num_classes=2", "--data", "pictures", "--limit", "2"]
    few = ["--attack", "fgsm", "--lambda", "0", "--samples", "1", "--passes", "1"]
    options = ["--defense", "sap:100", *few, "--out", "hub", "--json"]
    app(["evaluate", *words, *options], standalone_mode=False)
    captured = capsys.readouterr()
    assert "has random weights, as nothing is downloaded" in captured.err
    assert json.loads(captured.out)["rows"]

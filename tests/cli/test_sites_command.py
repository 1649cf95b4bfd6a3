"""``saplab sites``: the table of a network's sites, as text and as JSON, and mistakes."""

import json
import sys
from pathlib import Path

import pytest
from torchvision_operators import declare_torchvision_operators

from saplab.cli import app

declare_torchvision_operators()

FACTORY = """
import numpy as np
import torch
from torch import nn
from saplab.models.initialise import initialise

def small():
    return initialise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5), nn.GELU()), 0)

class Noisy(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))

    def forward(self, x):
        return self.layers(x + 0.1 * torch.randn_like(x))

def noisy():
    return initialise(Noisy(), 0)

def grey():
    return initialise(Noisy(1), 0)

class Private(Noisy):
    def forward(self, x):
        return self.layers(x + torch.from_numpy(np.random.default_rng().normal(size=x.shape)).float())

def private():
    return initialise(Private(), 0)
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sited.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "sited", raising=False)
    return tmp_path


def sites(*words: str) -> None:
    app(["sites", *words], standalone_mode=False)


def test_the_table_of_sites(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites("sited:small", "--defense", "sap:50", "--image-size", "12")
    out = capsys.readouterr().out
    assert "0  1     relu      4×10×10          400    200" in out
    assert "1  4     gelu            5            5      2" in out
    assert "2 sites, 405 activations an image; 202 draws a pass and image" in out
    sites("sited:small", "--image-size", "12")
    assert "2 sites, 405 activations an image\n" in capsys.readouterr().out


def test_sites_as_json(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites("sited:small", "--defense", "sap:50", "--sites", "1", "--image-size", "12", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["activations"], found["draws"]) == (400, 200)
    assert [site["name"] for site in found["sites"]] == ["1"]
    assert found["sites"][0]["shape"] == [4, 10, 10]


def test_whether_the_network_itself_draws_is_told(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites("sited:small", "--image-size", "12")
    assert "random" not in capsys.readouterr().out
    sites("sited:noisy", "--image-size", "12")
    assert "The network is random by itself; its draws are the examples' own" in capsys.readouterr().out
    sites("sited:noisy", "--image-size", "12", "--json")
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("The network is random by itself")


def test_pictures_of_one_channel(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites("sited:grey", "--image-size", "12")
    out = capsys.readouterr().out
    assert "4×10×10" in out
    assert "random by itself" in out


def test_sites_of_a_network_whose_draws_cannot_be_keyed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites("sited:private", "--image-size", "12")
    out = capsys.readouterr().out
    assert "\n1 site, 400 activations an image\n" in out
    assert "in a way that cannot be keyed" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--image-size", "13"), "cannot take an image of 3×13×13 .three channels or one, `image-size`.: "),
        (("--sites", "x"), "`sites` selects the sites of a defence"),
        (("--sites", "x", "--defense", "sap:50", "--image-size", "12"), "'x' selects none of the network's 2 sites"),
    ],
)
def test_mistakes_of_sites(workplace: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sites("sited:small", *words)


def test_sites_of_a_hubs_network(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision", reason="torchvision belongs to the extra 'vision'")
    sites("torchvision:resnet18", "--defense", "sap:100", "--image-size", "64")
    out = capsys.readouterr().out
    assert "torchvision:resnet18 has random weights" in out
    assert "network.layer4.1.relu" in out
    assert "17 sites" in out

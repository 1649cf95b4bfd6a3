"""The networks of the package: their checksums, facts and copies."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saplab.data.cifar10 import load_cifar10
from saplab.models import zoo
from saplab.models.identity import weights_digest
from saplab.models.packaged import Measured, read_packaged
from saplab.models.resnet import resnet20
from saplab.models.zoo import load_model


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in resnet20().state_dict().items()}


@pytest.mark.parametrize("name", sorted(zoo.PACKAGED))
def test_packaged_weights_are_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load_model(name).training
    monkeypatch.setitem(zoo.PACKAGED, name, zoo.Packaged(zoo.PACKAGED[name].architecture, "0" * 64))
    with pytest.raises(ValueError, match=f"the packaged weights of {name} are damaged: SHA-256 must be 0000"):
        load_model(name)


def test_packaged_network_reaches_its_accuracy_on_the_sample() -> None:
    """917 of 1,000: measured once; the closest two logits of any image differ by 0.24, so rounding moves none."""
    images, labels = load_cifar10("sample")
    with torch.no_grad():
        predicted = load_model("preact-resnet20-dense")(images).argmax(dim=1)
    assert int((predicted == labels).sum()) == 917


def test_packaged_networks_have_cards() -> None:
    weights = Path(zoo.__file__).parent / "weights"
    assert {path.stem for path in weights.glob("*.safetensors")} == set(zoo.PACKAGED)
    assert {path.stem for path in weights.glob("*.md")} == set(zoo.PACKAGED)
    assert {path.stem for path in weights.glob("*.json")} == set(zoo.PACKAGED)


def test_packaged_networks_load_from_a_copy_and_from_nothing_else(tmp_path: Path) -> None:
    name = "preact-resnet20-dense"
    content = (Path(zoo.__file__).parent / "weights" / f"{name}.safetensors").read_bytes()
    (tmp_path / "copy.safetensors").write_bytes(content)
    assert weights_digest(load_model(name, tmp_path / "copy.safetensors")) == weights_digest(load_model(name))
    (tmp_path / "copy.safetensors").write_bytes(content[:-1])
    message = (
        rf"copy.safetensors does not hold the weights of {name} \(for other weights name 'preact-resnet20'\): SHA-256"
    )
    with pytest.raises(ValueError, match=message):
        load_model(name, tmp_path / "copy.safetensors")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt is missing"):
        load_model(name, tmp_path / "absent.pt")


def test_a_checksum_beside_a_file_must_agree(tmp_path: Path, state) -> None:
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    facts = zoo.Packaged("resnet20", hashlib.sha256(path.read_bytes()).hexdigest())
    path.with_suffix(".json").write_bytes(facts.to_json())
    load_model("resnet20", path)
    save_file({**state, "linear.bias": state["linear.bias"] + 1}, path)
    with pytest.raises(ValueError, match=r"net\.safetensors is damaged or another file than net\.json says: SHA-256"):
        load_model("resnet20", path)
    path.with_suffix(".json").write_text('{"not": "ours"}')
    load_model("resnet20", path)


def test_an_architecture_has_the_classes_of_its_weights(tmp_path: Path) -> None:
    save_file(resnet20(classes=7).state_dict(), tmp_path / "seven.safetensors")
    assert load_model("resnet20", tmp_path / "seven.safetensors")(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_facts_survive_their_file() -> None:
    facts = zoo.Packaged(
        "resnet20", "0" * 64, "fast", "small", "saplab train", (Measured("PGD-20", 8.0, 3, 4, "test"),)
    )
    assert zoo.Packaged.from_json(facts.to_json()) == facts
    for content in (b"{", b"[]", b'{"architecture": "resnet20"}', b'{"architecture": "resnet20", "sha256": 0}'):
        with pytest.raises(ValueError, match="not a network's file of facts"):
            zoo.Packaged.from_json(content)


@pytest.mark.parametrize("name", sorted(zoo.PACKAGED))
def test_facts_are_written_as_they_are_in_the_package(name: str) -> None:
    assert zoo.PACKAGED[name].to_json() == (Path(zoo.__file__).parent / "weights" / f"{name}.json").read_bytes()


def test_a_network_is_three_files(tmp_path: Path) -> None:
    facts = zoo.Packaged("resnet20", "0" * 64)
    (tmp_path / "mine.json").write_bytes(facts.to_json())
    (tmp_path / "mine.md").write_text("card")
    assert read_packaged(tmp_path) == {"mine": facts}

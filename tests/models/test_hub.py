"""Networks of torchvision and timm by name: first weights, normalisation, view, mistakes."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision_operators import declare_torchvision_operators

from saplab.cli.errors import explain
from saplab.models.hub import View, build
from saplab.models.zoo import load_model, weights_digest

declare_torchvision_operators()


def need(package: str) -> Any:
    return pytest.importorskip(package, reason=f"{package} belongs to the extra 'vision'")


SPECS = ("torchvision:resnet18", "timm:resnet18")


@pytest.mark.parametrize("spec", SPECS)
def test_first_weights_are_a_function_of_the_name_alone(spec: str) -> None:
    need(spec.partition(":")[0])
    state = torch.random.get_rng_state()
    one = load_model(spec)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not one.training
    torch.rand(3)
    assert weights_digest(load_model(spec)) == weights_digest(one)


@pytest.mark.parametrize("spec", SPECS)
def test_normalisation_is_a_layer(spec: str) -> None:
    need(spec.partition(":")[0])
    model = build(spec).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert torch.equal(model(images), model.network((images - mean) / std))
    assert all(key.startswith("network.") for key in model.state_dict())


def test_views_are_the_packages_own() -> None:
    torchvision = need("torchvision")
    view = build("torchvision:efficientnet_b1").view
    look = torchvision.models.EfficientNet_B1_Weights.DEFAULT.transforms()
    assert view == View(look.crop_size[0], look.resize_size[0], look.interpolation.value)
    assert view == View(240, 255, "bilinear")
    need("timm")
    assert build("timm:resnet18").view == View(224, 235, "bicubic")  # crop_pct 0.95


def test_weights_are_those_of_the_network_itself(tmp_path: Path) -> None:
    torchvision = need("torchvision")
    theirs = torchvision.models.resnet18(num_classes=7)
    save_file(theirs.state_dict(), tmp_path / "mine.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "mine.pth")
    for name in ("mine.safetensors", "mine.pth"):
        mine: Any = load_model("torchvision:resnet18?num_classes=7", tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(mine.network.parameters(), theirs.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"fc\.weight must have shape \(1000, 512\), got \(7, 512\)"):
        load_model("torchvision:resnet18", tmp_path / "mine.pth")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet19", "`model` torchvision:resnet19 is none of torchvision's .* torchvision:resnet1"),
        ("torchvision:maskrcnn_resnet50_fpn", "is none of torchvision's"),
        ("torchvision:", "must be torchvision:NAME"),
        ("torchvision:resnet18?classes=3", "must be torchvision:NAME"),
        ("timm:resnet", "`model` timm:resnet is none of timm's"),
        ("timm:hf-hub:someone/model", "is none of timm's"),
    ],
)
def test_names_that_are_none(spec: str, message: str) -> None:
    need(spec.partition(":")[0])
    with pytest.raises(ValueError, match=message):
        load_model(spec)


@pytest.mark.parametrize("hub", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named X", name="X"), "needs {hub}: pip install 'saplab\\[vision\\]'"),
        (ModuleNotFoundError("No module named 'yaml'", name="yaml"), "needs {hub}, which cannot be imported: .*yaml"),
        (RuntimeError("operator torchvision::nms does not exist"), "installed but cannot be imported .*nms does not"),
    ],
)
def test_a_missing_and_a_broken_package(
    hub: str, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if getattr(error, "name", None) == "X":
        error = ModuleNotFoundError(f"No module named {hub!r}", name=hub)

    def fail(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr("saplab.models.hub.importlib.import_module", fail)
    with pytest.raises(ValueError, match=message.format(hub=hub)) as caught:
        load_model(f"{hub}:resnet18")
    assert "\n" not in explain(caught.value)

"""Networks of torchvision and timm by name: first weights, normalisation, view, mistakes."""

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision_operators import declare_torchvision_operators

from saplab.cli.errors import explain
from saplab.models.hub import View, build
from saplab.models.identity import TAKEN, weights_digest
from saplab.models.zoo import load_model

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
    assert build("timm:resnet18").view == View(288, 288, "bicubic")  # test_input_size, test_crop_pct


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


def old_names(state: dict[str, Any], *changes: tuple[str, str]) -> dict[str, Any]:
    """Return a state_dict by the names that official files have."""
    for pattern, new in changes:
        state = {re.sub(pattern, new, name): tensor for name, tensor in state.items()}
    return state


def save(state: dict[str, Any], path: Path) -> Path:
    torch.save(state, path)
    return path


def changed(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return other numbers than a new network's, whole ones as they are."""
    generator = torch.Generator().manual_seed(1)
    state = network.state_dict()
    return {n: torch.rand(t.shape, generator=generator) if t.is_floating_point() else t for n, t in state.items()}


def same(network: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = network.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items() if "num_batches" not in name)


def test_old_names_of_torchvisions_densenets_load(tmp_path: Path) -> None:
    models = need("torchvision").models
    state = changed(models.densenet121(num_classes=2))
    file = save(old_names(state, (r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.")), tmp_path / "d.pth")
    assert same(load_model("torchvision:densenet121?num_classes=2", file).network, state)


def test_old_names_of_torchvisions_transformers_load(tmp_path: Path) -> None:
    """By the code of the layer itself; with another number of classes, the head's shape is named."""
    models = need("torchvision").models
    state = changed(models.vit_b_32(num_classes=2))
    file = save(old_names(state, (r"mlp\.0\.", "mlp.linear_1."), (r"mlp\.3\.", "mlp.linear_2.")), tmp_path / "v.pth")
    assert same(load_model("torchvision:vit_b_32?num_classes=2", file).network, state)


def test_mnasnet_loads_though_its_file_names_no_version(tmp_path: Path) -> None:
    models = need("torchvision").models
    state = changed(models.mnasnet0_5(num_classes=2))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "m.safetensors")
    assert same(load_model("torchvision:mnasnet0_5?num_classes=2", tmp_path / "m.safetensors").network, state)


def test_old_names_of_timms_networks_load_through_its_own_filters(tmp_path: Path) -> None:
    """ConvNeXt by the names of its authors."""
    timm = need("timm")
    state = changed(timm.create_model("convnext_atto", num_classes=2))
    authors = old_names(
        state, (r"^stem\.", "downsample_layers.0."), (r"\.blocks\.", "."), (r"^head\.norm", "norm"),
        (r"^head\.fc\.", "head."), (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"), ("conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"), (r"\.gamma", ".gamma"),
    )  # fmt: skip
    assert not authors.keys() & {"stem.0.weight", "head.fc.weight"}
    random_state = torch.random.get_rng_state()
    model = load_model("timm:convnext_atto?num_classes=2", save({"model": authors}, tmp_path / "c.pth"))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert same(model.network, state)
    del authors["norm.weight"]
    with pytest.raises(ValueError, match=r"c\.pth lacks .* and has unexpected"):
        load_model("timm:convnext_atto?num_classes=2", save({"model": authors}, tmp_path / "c.pth"))


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_reads_images_as_its_weights_were_trained(tmp_path: Path, auxiliary: bool) -> None:
    """torchvision sets `transform_input` where it loads weights itself; files saved again lack the auxiliary parts."""
    models = need("torchvision").models
    theirs = models.GoogLeNet(num_classes=3, aux_logits=auxiliary, transform_input=True, init_weights=False)
    theirs.load_state_dict(changed(theirs))
    mine = load_model("torchvision:googlenet?num_classes=3", save(theirs.state_dict(), tmp_path / "g.pth"))
    look = models.GoogLeNet_Weights.DEFAULT.transforms()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval()(
            (images - torch.tensor(look.mean)[:, None, None]) / torch.tensor(look.std)[:, None, None]
        )
        assert torch.equal(mine(images), expected)


def test_preprocessing_is_that_of_the_official_file(tmp_path: Path) -> None:
    """MobileNetV2's first weights were tested on pictures of 256 pixels, its second on 232."""
    models = need("torchvision").models
    state = models.mobilenet_v2().state_dict()
    for name, resize in (("mobilenet_v2-b0353104.pth", 256), ("mobilenet_v2-7ebf99e0.pth", 232)):
        model = load_model("torchvision:mobilenet_v2", save(state, tmp_path / name))
        assert model.view == View(224, resize, "bilinear")
        assert not getattr(model, TAKEN)
    file = save(state, tmp_path / "mine.pth")
    guess = load_model("torchvision:mobilenet_v2", file)
    assert guess.view.resize == 232
    assert (
        "as for torchvision's IMAGENET1K_V2; otherwise name torchvision:mobilenet_v2?weights=IMAGENET1K_V1"
        in getattr(guess, TAKEN)
    )
    assert load_model("torchvision:mobilenet_v2?weights=IMAGENET1K_V1", file).view == View(224, 256, "bilinear")
    with pytest.raises(ValueError, match="torchvision:mobilenet_v2 has weights IMAGENET1K_V1, IMAGENET1K_V2, got 'V3'"):
        build("torchvision:mobilenet_v2?weights=V3")
    assert build("torchvision:mobilenet_v2?num_classes=3&weights=IMAGENET1K_V1").network.classifier[1].out_features == 3


def test_a_transformer_has_the_size_of_its_weights() -> None:
    need("torchvision")
    with torch.device("meta"):  # 0.6 billion parameters
        model = build("torchvision:vit_h_14?weights=IMAGENET1K_SWAG_E2E_V1")
    assert model.network.image_size == model.view.size == 518


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("resnet18", View(288, 288, "bicubic")),  # test_input_size, test_crop_pct
        ("vit_tiny_patch16_224", View(224, 248, "bicubic")),  # floor(224 / 0.9)
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", View(224, 248, "bicubic")),
        ("mobilenetv3_small_100", View(224, 256, "bicubic")),
        ("vit_base_patch16_clip_224", View(224, 235, "bicubic")),
        ("eva02_tiny_patch14_336", View(336, 336, "bicubic")),
    ],
)
def test_timms_views_are_those_of_its_validation(name: str, view: View) -> None:
    timm = need("timm")
    with torch.device("meta"):
        model: Any = build(f"timm:{name}")
    look = timm.data.resolve_data_config(model=model.network, use_test_size=True)
    assert model.view.mode == look["crop_mode"]
    assert replace(model.view, mode="center") == view


def test_names_of_imagenets_classes_are_known() -> None:
    need("timm")
    names = build("timm:test_vit").classes
    assert names[0] == "tench, Tinca tinca, n01440764"
    assert len(names) == 1000
    assert build("timm:test_vit?num_classes=7").classes == []
    need("torchvision")
    with torch.device("meta"):
        assert build("torchvision:resnet18").classes[1].startswith("goldfish, goldfish, Carassius auratus, n01443537")

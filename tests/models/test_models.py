"""The two ResNet-20s, weights from files, and what the zoo refuses."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from saplab.data.cifar10 import as_images, read_records
from saplab.models.identity import weights_digest
from saplab.models.initialise import initialise
from saplab.models.layers import Normalize
from saplab.models.preact_resnet import PreactBlock, preact_resnet20
from saplab.models.resnet import IMAGENET_MEAN, IMAGENET_STD, option_a, resnet20
from saplab.models.zoo import ARCHITECTURES, load_model

REPOSITORY = Path(__file__).parents[2]


class CountRelu(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is F.relu:
            self.shapes.append(tuple(out.shape))
        return out


@pytest.mark.parametrize("name", ["preact-resnet20", "resnet20"])
def test_nineteen_relus_of_three_sizes(name: str) -> None:
    with CountRelu() as count, torch.no_grad():
        logits = ARCHITECTURES[name]().eval()(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float32
    assert sorted(count.shapes) == sorted([(2, 16, 32, 32)] * 7 + [(2, 32, 16, 16)] * 6 + [(2, 64, 8, 8)] * 6)


def test_parameter_counts() -> None:
    convolutions = 27 * 16 + 6 * 9 * 16 * 16 + 9 * 16 * 32 + 5 * 9 * 32 * 32 + 9 * 32 * 64 + 5 * 9 * 64 * 64
    linear = 64 * 10 + 10
    preact_norms = 2 * (3 + 6 * 16 + 16 + 5 * 32 + 32 + 5 * 64 + 64)
    projections = 16 * 32 + 32 * 64
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    sizes = {name: sum(p.numel() for p in make().parameters()) for name, make in ARCHITECTURES.items()}
    assert sizes["preact-resnet20"] == convolutions + linear + preact_norms + projections == 272_288
    assert sizes["resnet20"] == convolutions + linear + norms == 269_722


def test_projections_stand_where_the_width_changes() -> None:
    blocks = {name: m for name, m in preact_resnet20().named_modules() if isinstance(m, PreactBlock)}
    assert len(blocks) == 9
    assert [name for name, block in blocks.items() if block.project is not None] == ["stage2.0", "stage3.0"]


def test_preact_block_by_hand() -> None:
    block = PreactBlock(2, 2, 1).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x), "an identity block must leave negative values of the stream alone"
    projecting = PreactBlock(2, 3, 2).eval()
    nn.init.zeros_(projecting.conv2.weight)
    assert projecting.project is not None
    assert torch.equal(projecting(x), projecting.project(torch.relu(projecting.bn1(x))))


def test_option_a_by_hand() -> None:
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert option_a(x, stride=2, extra=1).flatten().tolist() == [0, 0, 4, 0]
    assert option_a(x, stride=1, extra=0) is x


def test_normalize() -> None:
    layer = Normalize((0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    images = torch.ones(1, 3, 1, 1)
    assert layer(images).flatten().tolist() == [1.0, 3.0, 0.5]
    assert not layer.state_dict()
    with pytest.raises(ValueError, match="`std` must be > 0"):
        Normalize((0.0,), (0.0,))
    with pytest.raises(ValueError, match="`std` must have as many values"):
        Normalize((0.0,), (1.0, 1.0))


@pytest.mark.parametrize("make", [preact_resnet20, resnet20])
def test_number_of_classes(make) -> None:
    assert make(classes=7).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    with pytest.raises(ValueError, match="`classes` must be >= 1, got 0"):
        make(classes=0)


def test_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = weights_digest(preact_resnet20())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert weights_digest(preact_resnet20()) == first
    assert weights_digest(initialise(preact_resnet20(), 0)) == first
    assert weights_digest(initialise(preact_resnet20(), 1)) != first
    assert torch.equal(torch.get_rng_state(), before)


def test_he_initialisation_has_its_variance() -> None:
    weight = initialise(preact_resnet20(), 3).stage3[2].conv2.weight.detach()
    fan_in, count = 64 * 9, weight.numel()
    variance = float(weight.square().mean())
    assert variance == pytest.approx(2 / fan_in, rel=4 * (2 / count) ** 0.5)  # four standard errors


def test_digest_sees_every_bit() -> None:
    model = preact_resnet20()
    digest = weights_digest(model)
    model.normalize.running_mean[0] += 1e-6
    assert weights_digest(model) != digest
    assert weights_digest(Normalize((0.5,), (0.5,))) != weights_digest(Normalize((0.5,), (0.25,)))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in initialise(resnet20(), 5).state_dict().items()}


def wrapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", ["pt", "pth", "th"])
@pytest.mark.parametrize("shape", ["raw", "state_dict", "model", "module"])
def test_weights_from_pt(tmp_path: Path, state, suffix: str, shape: str) -> None:
    content = {"raw": state, "state_dict": {"state_dict": state, "epoch": 3}, "model": {"model": state}}
    content["module"] = {"state_dict": wrapped(state), "best_prec1": 0.9}
    torch.save(content[shape], tmp_path / f"net.{suffix}")
    model = load_model("resnet20", tmp_path / f"net.{suffix}")
    assert not model.training
    assert weights_digest(model) == weights_digest(initialise(resnet20(), 5))


def test_weights_from_safetensors(tmp_path: Path, state) -> None:
    save_file(wrapped(state), tmp_path / "net.safetensors")
    model = load_model("resnet20", str(tmp_path / "net.safetensors"))
    assert weights_digest(model) == weights_digest(initialise(resnet20(), 5))


def test_loading_leaves_the_global_generator_alone(tmp_path: Path, state) -> None:
    save_file(state, tmp_path / "net.safetensors")
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    load_model("resnet20", tmp_path / "net.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def broken(state: dict[str, torch.Tensor], what: str) -> dict[str, torch.Tensor]:
    changed = dict(state)
    if what == "missing":
        del changed["conv1.weight"]
    elif what == "unexpected":
        changed |= {f"extra{k}": torch.zeros(1) for k in range(5)}
    elif what == "shape":
        changed["linear.weight"] = torch.zeros(100, 64)
    elif what == "nan":
        changed["linear.bias"] = torch.full((10,), torch.nan)
    return changed


def test_counters_that_old_checkpoints_lack_may_be_missing(tmp_path: Path, state) -> None:
    old = {name: tensor for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}
    assert len(old) < len(state)
    save_file(old, tmp_path / "net.safetensors")
    assert weights_digest(load_model("resnet20", tmp_path / "net.safetensors")) == weights_digest(
        initialise(resnet20(), 5)
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"net\.safetensors lacks conv1\.weight$"),
        ("unexpected", r"has unexpected extra0, extra1, extra2 and 2 more$"),
        ("shape", r"linear\.weight must have shape \(10, 64\), got \(100, 64\)$"),
        ("nan", r"linear\.bias must be finite"),
    ],
)
def test_wrong_weights(tmp_path: Path, state, what: str, message: str) -> None:
    save_file(broken(state, what), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        load_model("resnet20", tmp_path / "net.safetensors")
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path, state) -> None:
    save_file(state, tmp_path / "net.safetensors")
    torch.save(state, tmp_path / "net.pt")
    for name, message in (("net.safetensors", "no readable safetensors file"), ("net.pt", "weights_only=True")):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match=message) as caught:
            load_model("resnet20", path)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": _Malicious(tmp_path / "touched")}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net\.pt cannot be read with weights_only=True"):
        load_model("resnet20", tmp_path / "net.pt")
    assert not (tmp_path / "touched").exists()


def test_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt is missing"):
        load_model("resnet20", tmp_path / "none.pt")
    (tmp_path / "net.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"`weights` must end in \.safetensors, \.pt, .*, got .*net\.h5"):
        load_model("resnet20", tmp_path / "net.h5")
    for content in ([1, 2], {}, {"state_dict": {"a": 1}}):
        torch.save(content, tmp_path / "net.pt")
        with pytest.raises(ValueError, match=r"net\.pt must hold a state_dict"):
            load_model("resnet20", tmp_path / "net.pt")


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"`model` must be one of .*resnet20.* \(did you mean 'resnet20'\?\)"):
        load_model("resnet-20")
    with pytest.raises(ValueError, match=r"or package\.module:factory, got 'zzz'$"):
        load_model("zzz")
    with pytest.raises(ValueError, match="`weights` must name a file for the architecture 'resnet20', got None"):
        load_model("resnet20")


def test_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_network.py").write_text(
        "from torch import nn\nfrom saplab.models.resnet import resnet20\n"
        "def tiny(): return nn.Linear(2, 2)\ndef net(): return resnet20()\ndef wrong(): return 3\nplain = 3\n"
    )
    save_file(state, "net.safetensors")
    model = load_model("own_network:tiny")
    assert isinstance(model, nn.Linear)
    assert not model.training
    loaded = load_model("own_network:net", "net.safetensors")
    assert weights_digest(loaded) == weights_digest(initialise(resnet20(), 5))
    for spec, message in (
        ("own_network:wrong", "must make an nn.Module, got int"),
        ("own_network:plain", "must name a function, got int"),
        ("own_network:absent", "own_network:absent cannot be imported: "),
        (".own_network:net", "must be a network's name or package.module:factory, got '.own_network:net'"),
        ("own_network:", "must be a network's name or package.module:factory, got 'own_network:'"),
        ("no_such_module:net", "cannot be imported: No module named 'no_such_module'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            load_model(spec)


def test_outside_checkpoint_reaches_its_published_accuracy() -> None:
    root = Path(os.environ.get("SAPLAB_CIFAR10", REPOSITORY / "data" / "cifar10"))
    shared = REPOSITORY.parent / "shared" / "data" / "checkpoints" / "resnet20-12fca82f.th"
    checkpoint = Path(os.environ.get("SAPLAB_RESNET20", shared))
    if not root.is_dir() or not checkpoint.is_file():
        pytest.skip("needs CIFAR-10 (SAPLAB_CIFAR10) and akamaster's resnet20-12fca82f.th (SAPLAB_RESNET20)")
    model = load_model("resnet20", checkpoint)
    assert model.normalize.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    assert model.normalize.std.flatten().tolist() == pytest.approx(IMAGENET_STD)
    test = read_records("test", root, exact=False)
    correct = 0
    with torch.no_grad():
        for start in range(0, 10_000, 500):
            logits = model(as_images(test.images[start : start + 500]))
            correct += int((logits.argmax(dim=1).numpy() == test.labels[start : start + 500]).sum())
    assert correct == 9_173

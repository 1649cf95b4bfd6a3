"""Any network: sites found are the calls made, and enough draws give the network itself back.

The calls are counted apart from the package, where PyTorch dispatches to its kernels, and for well-known networks by
hand.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision_operators import declare_torchvision_operators

import saplab
from saplab.defenses.drawing import drawing
from saplab.models.initialise import initialise, untouched_generator
from saplab.pruning.operator import prune
from saplab.rng.streams import pass_streams, stream_key

declare_torchvision_operators()

SIZE = 32
KERNELS = ("relu", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid",
           "tanh", "softplus", "clamp_min")  # fmt: skip
KNOWN = {"torchvision:resnet18": 17, "torchvision:resnet50": 49, "torchvision:vgg11": 10, "timm:resnet18": 17}


class Kernels(TorchDispatchMode):
    """Counts the activation kernels that PyTorch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in KERNELS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def torchvision(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision", reason="torchvision belongs to the extra 'vision'").models
    size = {"image_size": SIZE} if name.startswith("vit") else {}
    return models.get_model(name, weights=None, num_classes=10, **size)  # type: ignore[no-any-return]


def timm(name: str) -> nn.Module:
    package = pytest.importorskip("timm", reason="timm belongs to the extra 'vision'")
    size = {"img_size": SIZE} if name.startswith("vit") else {}
    return package.create_model(name, pretrained=False, num_classes=10, **size)  # type: ignore[no-any-return]


class Logits(nn.Module):
    """What a user writes around a classifier of Hugging Face."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(pixel_values=images).logits


def transformers(kind: str) -> nn.Module:
    package = pytest.importorskip("transformers", reason="transformers belongs to the extra 'vision'")
    if kind == "vit":
        small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
        config = package.ViTConfig(**small, image_size=SIZE, patch_size=8)
        return Logits(package.ViTForImageClassification(config))
    config = package.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 2, 1])
    return Logits(package.ResNetForImageClassification(config))


class Recurrent(nn.Module):
    """Reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3 * SIZE, 24, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(24, 16), nn.SELU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(x.permute(0, 2, 1, 3).flatten(2))
        return self.head(h[:, -1])  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """PyTorch's own encoder, which in eval mode has a fused path that calls no activation function."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(48, 4, 32, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(F.avg_pool2d(x, 2), 4, stride=4).transpose(1, 2)
        return self.head(self.encoder(patches).mean(1))  # type: ignore[no-any-return]


def own(kind: str) -> nn.Module:
    if kind == "lstm":
        return Recurrent()
    if kind == "encoder":
        return Transformer()
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 32), nn.Sigmoid(), nn.Linear(32, 32), nn.Hardswish(),
                         nn.Linear(32, 32), nn.LeakyReLU(0.2, inplace=True), nn.Linear(32, 5), nn.Tanh())  # fmt: skip


SOURCES: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
    "own": own,
}
NETWORKS = {
    "torchvision": ("resnet18", "resnet50", "vgg11", "densenet121", "mobilenet_v3_small", "efficientnet_b0",
                    "vit_b_16", "swin_t", "convnext_tiny"),
    "timm": ("resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050"),
    "transformers": ("vit", "resnet"),
    "own": ("mlp", "lstm", "encoder"),
}  # fmt: skip
SPECS = [f"{source}:{name}" for source, names in NETWORKS.items() for name in names]
UNSEEN = {"own:lstm": {"sigmoid": 3 * 2 * SIZE, "tanh": 2 * 2 * SIZE}}  # kernels inside the LSTM's own: gates by row


def build(spec: str) -> nn.Module:
    source, _, name = spec.partition(":")
    with untouched_generator():
        net = SOURCES[source](name)
    initialise(net, 0)
    generator = torch.Generator().manual_seed(1)
    for key, parameter in net.named_parameters():  # heads begin at 0 and layer scales near it, which would hide a site
        if "gamma" in key or "layer_scale" in key or "token" in key or "pos" in key or "lstm" in key:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return net.eval()


@pytest.fixture(scope="module", params=SPECS)
def spec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def net(spec: str) -> nn.Module:
    return build(spec)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def dense(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net(images)  # type: ignore[no-any-return]


def test_sites_are_the_calls_made(spec: str, net: nn.Module, images: Tensor) -> None:
    plain = net(images[:1]) if spec == "own:encoder" else None  # gradients switch the encoder's fused path off
    with torch.set_grad_enabled(plain is not None), Kernels() as kernels:
        net(images[:1])
    made = sum((kernels.count - Counter(UNSEEN.get(spec, {}))).values())
    found = saplab.sites(net, images[:1])
    assert len(found) == made
    assert KNOWN.get(spec, made) == made
    assert len({site.name for site in found}) == made
    assert [site.index for site in found] == list(range(made))


def test_enough_draws_give_the_network_itself(net: nn.Module, images: Tensor, dense: Tensor) -> None:
    with torch.no_grad():
        everything = saplab.defend(net, saplab.SAP(1e7))(images)
    scale = float(dense.abs().max())
    torch.testing.assert_close(everything, dense, atol=2e-5 * scale, rtol=0)


def test_draws_change_the_logits_and_leave_the_keys(net: nn.Module, images: Tensor, dense: Tensor) -> None:
    defended = saplab.defend(net, saplab.SAP(50))
    out = defended(images.clone().requires_grad_())
    assert not torch.allclose(out, dense, atol=1e-3 * float(dense.abs().max()), rtol=0)
    assert defended.state_dict().keys() == net.state_dict().keys()


def test_the_gradient_reaches_the_image(net: nn.Module, images: Tensor) -> None:
    x = images[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(saplab.defend(net, saplab.SAP(500))(x).square().sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


def test_a_raw_output_of_hugging_face_is_named() -> None:
    model: Any = transformers("vit")
    defended = saplab.defend(model.model.eval(), saplab.SAP(100))
    with pytest.raises(ValueError, match=r"must return a tensor of logits \(N, classes\), got ImageClassifierOutput"):
        saplab.predict(defended, torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), passes=1)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.LeakyReLU(0.2), nn.Hardswish()])
def test_signed_activations_go_by_their_size(activation: nn.Module) -> None:
    """One site's output is Algorithm 1 of |h| with the sign put back."""
    x = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    rows = pass_streams(stream_key(0), 3, torch.arange(4))
    with drawing(rows):
        out = saplab.defend(nn.Sequential(activation), saplab.SAP(40))(x)
    h = activation(x)
    assert (h < 0).any()
    assert torch.equal(out, prune(h.abs(), rows, 40) * h.sign())


def test_a_single_site_is_unbiased() -> None:
    """Mean over 4,000 passes against GELU itself, in standard errors of each entry; the largest of 50 below 4.5."""
    x = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).expand(4000, -1)
    out = saplab.defend(nn.Sequential(nn.GELU()), saplab.SAP(60), seed=1)(x).double()
    h = F.gelu(x[0]).double()
    error = (out.mean(0) - h) / (out.std(0) / 4000**0.5).clamp_min(1e-12)
    assert error[h.abs() > 0].abs().max() < 4.5


@pytest.mark.parametrize("call", [lambda x: x.clip(0), lambda x: torch.clip(x, min=0), lambda x: x.clip_(min=0)])
def test_a_clip_at_zero_is_a_rectifier(call: Callable[[Tensor], Tensor]) -> None:
    class Clips(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(x + 0)

    (site,) = saplab.sites(Clips(), torch.ones(1, 7))
    assert (site.function, site.activations) == ("relu", 7)

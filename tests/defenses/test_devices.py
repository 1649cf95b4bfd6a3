"""A defended network works where its tensors lie: shown on the device `meta`, and on a GPU where there is one."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saplab
from saplab.attacks import passes
from saplab.attacks.losses import cross_entropy
from saplab.attacks.passes import Passes
from saplab.attacks.problem import Problem
from saplab.defenses.drawing import drawing, fresh
from saplab.models.initialise import initialise
from saplab.models.preact_resnet import preact_resnet20
from saplab.pruning.backward import probability_gradient
from saplab.pruning.finite import NotFiniteError
from saplab.pruning.operator import RULES
from saplab.rng.gpu import gpu_kernels
from saplab.rng.numbers import normals, uniforms, words
from saplab.rng.streams import pass_streams

META = torch.device("meta")  # has shapes and devices and no numbers; two devices in one operation are an error
DEFENSES = {
    "sap": (saplab.SAP(100),),
    "dropout": (saplab.Dropout(0.2),),
    "rna": (saplab.RandomNoisyActivations(0.3),),
    "rsa": (saplab.RandomlyScaledActivations(0.3),),
    "rnw": (saplab.RandomNoisyWeights(0.1),),
    "rsw": (saplab.RandomlyScaledWeights(0.1),),
    "dwp": (saplab.DeterministicWeightPruning(50),),
    "swp": (saplab.StochasticWeightPruning(100),),
    "rfd": (saplab.RandomisedFeatures(0.3, "laplace"),),
    "rpi": (saplab.RandomPrecision(),),
}
every_defense = pytest.mark.parametrize("name", DEFENSES)
with_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Parts(nn.Module):
    """Sites whose maps are whole examples, and sites whose maps are quarters of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(192, 16), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        quarters = F.relu(self.first(x.reshape(-1, 192)))
        return self.last(F.gelu(quarters.reshape(len(x), -1)))  # type: ignore[no-any-return]


def images(count: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    pixels = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return pixels.to(device, dtype)


@every_defense
@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_made_on_the_cpu_by_the_way(name: str, rule) -> None:
    defended = saplab.defend(Parts().to(META), *DEFENSES[name], backward=rule)
    x = images(4, META).requires_grad_()
    for logits in (_fixed(defended, x, rule), defended(x)):
        (gradient,) = torch.autograd.grad(logits.sum(), x)
        assert logits.device == gradient.device == META


def _fixed(defended: nn.Module, x: Tensor, rule) -> Tensor:
    with drawing(pass_streams(3, 0, torch.arange(len(x))), rule):
        return defended(x)  # type: ignore[no-any-return]


def test_a_listing_of_sites_runs_where_the_images_are() -> None:
    assert len(saplab.sites(saplab.defend(Parts().to(META), saplab.SAP(100)), images(1, META))) == 2


def test_samples_of_a_gradient_stay_where_the_images_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "check_labels", lambda *args: None)  # it asks for numbers
    defended = saplab.defend(Parts().to(META), saplab.SAP(100))
    labels = torch.zeros(4, dtype=torch.int64, device=META)
    problem = Problem(defended, images(4, META), labels, torch.arange(4), seed=7)
    for found in Passes(problem, 0, "mask", 8).with_gradient(4, lambda z, k: cross_entropy(z, labels[k])):
        assert [t.device for t in found] == [META] * 3
        assert found[2].shape == (2, 4, 3, 16, 16)


def test_gradients_and_numbers_of_other_devices() -> None:
    h = torch.empty(4, 30, device=META)
    assert torch.ops.saplab.mask_gradient(h, h, h).device == META
    assert probability_gradient(h, h, h, 5).device == META
    keys = pass_streams(3, 0, torch.arange(4)).to(META)
    assert [draw(keys, 30).device for draw in (normals, uniforms, words)] == [META] * 3


def test_draws_move_to_a_device_once() -> None:
    draws = fresh(1, 2)
    assert draws.on(torch.device("cpu")) is draws
    there = draws.on(META)
    assert there.on(META) is there
    assert there.rows(8, "site").device == META
    assert (there.fresh, there.rule) == (draws.fresh, draws.rule)


def test_a_gpu_without_triton_is_told_of_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in list(sys.modules):
        if module.split(".")[0] == "triton" or module.startswith(("saplab.pruning.gpu", "saplab.rng.triton_words")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ModuleNotFoundError, match=r"^CUDA tensors need Triton: pip install triton[^\n]*$"):
        gpu_kernels("saplab.pruning.gpu")


def test_another_module_that_is_missing_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        gpu_kernels("saplab.nowhere")


# On a GPU


def defended_resnet(*defenses, device: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    net = initialise(preact_resnet20(), 0).eval().to(device, dtype)
    return saplab.defend(net, *defenses, seed=0)


@pytest.mark.gpu
@with_a_gpu
@pytest.mark.parametrize("name", [name for name in DEFENSES if name not in ("sap", "swp")])
def test_a_gpu_sees_the_numbers_of_the_cpu(name: str) -> None:
    x = images(4, torch.device("cpu"), torch.float64)
    logits = [
        _fixed(defended_resnet(*DEFENSES[name], device=device, dtype=torch.float64), x.to(device), "mask").cpu()
        for device in ("cpu", "cuda")
    ]
    assert torch.allclose(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@with_a_gpu
@pytest.mark.parametrize("name", ["sap", "swp"])
def test_a_gpu_draws_others_from_the_same_law(name: str) -> None:
    x, passes_ = images(8, torch.device("cpu")), 400
    mean = []
    for device in ("cpu", "cuda"):
        defended = defended_resnet(*DEFENSES[name], device=device)
        probs = torch.stack([_softmax(defended, x.to(device), seed) for seed in range(passes_)]).double()
        mean.append((probs.mean(0), probs.var(0) / passes_))
    (here, here_error), (there, there_error) = mean
    assert ((here - there).abs() < 5 * (here_error + there_error).sqrt() + 1e-4).all()


def _softmax(defended: nn.Module, x: Tensor, seed: int) -> Tensor:
    return saplab.predict(defended, x, passes=1, seed=seed)


@pytest.mark.gpu
@with_a_gpu
@pytest.mark.parametrize("rule", RULES)
def test_attacks_stay_on_the_gpu(rule) -> None:
    x, labels = images(6, torch.device("cuda")), torch.arange(6, device="cuda")
    defended = defended_resnet(saplab.SAP(100), device="cuda")
    attack = saplab.FGSM(saplab.MonteCarlo(samples=5, backward=rule))
    adversarial = attack(defended, x, labels, eps=8 / 255, seed=1)
    assert adversarial.device == x.device
    assert (adversarial - x).abs().max() <= 8 / 255 + 1e-6
    assert torch.equal(attack(defended, x, labels, eps=8 / 255, seed=1, examples=torch.arange(6).cuda()), adversarial)
    noisy = saplab.RandomNoise()(defended, x, labels, eps=0.1, seed=1)
    assert torch.equal(noisy.cpu(), saplab.RandomNoise()(None, x.cpu(), labels.cpu(), eps=0.1, seed=1))


@pytest.mark.gpu
@with_a_gpu
def test_a_gpu_tells_of_activations_that_are_not_finite() -> None:
    x = images(6, torch.device("cuda"))
    x[3, 0, 0, 0] = torch.inf
    defended = saplab.defend(Parts().cuda(), saplab.SAP(100))
    for call in (defended, lambda x: saplab.predict(defended, x, passes=2)):
        with pytest.raises(NotFiniteError, match=r"site 'relu': NaN or infinity in 1 of 24 maps, first in example 12"):
            call(x)
    defended(x[:3])


@pytest.mark.gpu
@with_a_gpu
@pytest.mark.parametrize("rule", RULES)
def test_a_compiled_pass_on_a_gpu(rule) -> None:
    defended = saplab.defend(Parts().cuda(), saplab.SAP(100), backward=rule)
    compiled = torch.compile(defended, backend="aot_eager")
    x = images(4, torch.device("cuda")).requires_grad_()
    keys = pass_streams(3, 0, torch.arange(4))
    found = []
    for network in (defended, compiled):
        with drawing(keys, rule):
            logits = network(x)
        found.append((logits, *torch.autograd.grad(logits.square().sum(), x)))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*found, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_replicas_on_several_gpus() -> None:
    defended = nn.DataParallel(saplab.defend(Parts().cuda(), saplab.SAP(100)))
    x = images(8, torch.device("cuda"))[:1].repeat(8, 1, 1, 1)
    assert len(defended(x).unique(dim=0)) == 8

"""Defended networks with the rest of PyTorch: compilation, autocast, replicas, ranks, checkpoints, torch.func."""

import copy
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

import saplab
from saplab.defenses.drawing import drawing
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key

DEFENSES = {
    "sap": (saplab.SAP(100),),
    "dropout": (saplab.Dropout(0.2),),
    "rna": (saplab.RandomNoisyActivations(0.3),),
    "rnw": (saplab.RandomNoisyWeights(0.1),),
    "swp": (saplab.StochasticWeightPruning(100),),
    "rfd": (saplab.RandomisedFeatures(0.1, "laplace"),),
    "rpi": (saplab.RandomPrecision(),),
    "sap+rsw": (saplab.SAP(100), saplab.RandomlyScaledWeights(0.1)),
}
every_defense = pytest.mark.parametrize("defenses", DEFENSES.values(), ids=DEFENSES.keys())

COMPILER_WARNINGS = pytest.mark.filterwarnings(  # of the compiler's own looking around
    "ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor:UserWarning"
)

Around = Callable[[nn.Module, Tensor], Tensor]


def call(block: nn.Module, x: Tensor) -> Tensor:
    return block(x)  # type: ignore[no-any-return]


class Small(nn.Module):
    """Two blocks, run through `around`: a module, an in-place one and a function as sites."""

    def __init__(self, around: Around = call) -> None:
        super().__init__()
        self.around = around
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GELU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True))
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.around(self.second, self.around(self.first, x))
        return self.last(F.silu(x.mean((2, 3))))  # type: ignore[no-any-return]


def small(around: Around = call) -> nn.Module:
    return initialise(Small(around), 0)


def rows(pass_: int, count: int = 4) -> Tensor:
    return pass_streams(stream_key(0), pass_, torch.arange(count))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))


# --- torch.compile ---------------------------------------------------------------------------------------------------


@pytest.fixture
def compiler() -> Iterator[None]:
    """Begin without compiled code, and let a second compilation of the same code be an error."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch.compiler.reset()


@every_defense
@COMPILER_WARNINGS
def test_compiled_passes_equal_eager_ones(defenses: Any, images: Tensor, compiler: None) -> None:
    defended = saplab.defend(small(), *defenses)
    compiled = torch.compile(defended, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    seen = []
    for number in range(4):
        x = images.clone()  # a batch of its own each time
        with drawing(rows(number)):
            seen.append((compiled(x), defended(x)))
    for theirs, mine in seen:
        torch.testing.assert_close(theirs, mine, atol=1e-6, rtol=1e-5)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # the whole network in one piece
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) == 1


@every_defense
@COMPILER_WARNINGS
def test_compiled_direct_calls_are_fresh_passes(defenses: Any, images: Tensor, compiler: None) -> None:
    mine, other = (saplab.defend(small(), *defenses, seed=5) for _ in range(2))
    compiled = torch.compile(other, backend="aot_eager")
    for _ in range(4):
        torch.testing.assert_close(compiled(images), mine(images), atol=1e-6, rtol=1e-5)


@COMPILER_WARNINGS
def test_compiled_gradients_equal_eager_ones(images: Tensor, compiler: None) -> None:
    defended = saplab.defend(small(), saplab.SAP(100))
    compiled = torch.compile(defended, backend="aot_eager")
    gradients = []
    for model in (defended, compiled):
        x = images.clone().requires_grad_()
        with drawing(rows(2)):
            model(x).square().sum().backward()
        gradients.append([x.grad, *(p.grad.clone() for p in defended.parameters() if p.grad is not None)])
        defended.zero_grad()
    assert len(gradients[0]) == 9
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=1e-4)


def test_a_compiled_network_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`model` is compiled; defend it first"):
        saplab.defend(torch.compile(small(), backend="eager"), saplab.SAP(100))


# --- types, formats and modes ----------------------------------------------------------------------------------------


@every_defense
def test_autocast(defenses: Any, images: Tensor) -> None:
    defended = saplab.defend(small(), *defenses)
    x = images.clone().requires_grad_()
    with drawing(rows(0)), torch.autocast("cpu", torch.bfloat16):
        out = defended(x)
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    out.float().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@every_defense
def test_memory_format_decides_no_draw(defenses: Any, images: Tensor) -> None:
    net = nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.GELU())
    net.append(nn.Conv2d(3, 2, 1)) if any("weight" in d.hooks for d in defenses) else None
    defended = saplab.defend(initialise(net, 0), *defenses)
    with drawing(rows(1)):
        contiguous = defended(images)
    with drawing(rows(1)):
        channels_last = defended(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(channels_last == 0, contiguous == 0)
    torch.testing.assert_close(channels_last, contiguous, atol=1e-6, rtol=1e-6)


@every_defense
def test_without_gradients_the_numbers_are_the_same(defenses: Any, images: Tensor) -> None:
    defended = saplab.defend(small(), *defenses)
    with drawing(rows(0)):
        expected = defended(images)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode, drawing(rows(0)):
            out = defended(images)
        assert not out.requires_grad
        assert torch.equal(out, expected)


@every_defense
def test_a_defended_network_can_be_trained(defenses: Any, images: Tensor) -> None:
    net = small().train()
    defended = saplab.defend(net, *defenses)
    optimizer = torch.optim.SGD(defended.parameters(), 0.05)
    labels = torch.tensor([0, 1, 2, 3])
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(defended(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10])


# --- replicas and ranks ----------------------------------------------------------------------------------------------


def replicate(model: nn.Module) -> nn.Module:
    """Make a replica as `torch.nn.parallel.replicate` does for each device, sharing the tensors."""
    modules = list(model.modules())
    copies: dict[nn.Module, Any] = {m: m._replicate_for_data_parallel() for m in modules}  # type: ignore[operator]
    for module, twin in copies.items():
        for name, child in module._modules.items():
            setattr(twin, name, copies[child])  # type: ignore[index]
        for name, parameter in module._parameters.items():
            setattr(twin, name, None if parameter is None else parameter.view_as(parameter))
    return copies[model]  # type: ignore[no-any-return]


def in_threads(models: list[nn.Module], x: Tensor) -> list[Tensor]:
    out: dict[int, Tensor] = {}

    def work(k: int) -> None:
        out[k] = models[k](x).detach()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [out[k] for k in range(len(models))]


@every_defense
def test_replicas_draw_for_themselves(defenses: Any, images: Tensor) -> None:
    def run() -> list[Tensor]:
        defended = saplab.defend(small(), *defenses, seed=7)  # by which rpi draws four widths
        return [out for _ in range(2) for out in in_threads([replicate(defended), replicate(defended)], images)]

    outs = run()
    assert all(not torch.equal(outs[i], outs[j]) for i in range(4) for j in range(i))
    assert all(torch.equal(a, b) for a, b in zip(outs, run(), strict=True))


def test_replicas_refuse_fixed_draws(images: Tensor) -> None:
    defended = saplab.defend(small(), saplab.SAP(100))
    refused = []

    def work(replica: nn.Module) -> None:
        try:
            replica(images)
        except ValueError as error:
            refused.append(str(error))

    with drawing(rows(0)):
        thread = threading.Thread(target=work, args=(replicate(defended),))
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert refused[0].startswith("a DataParallel replica cannot tell which of the fixed draws")


@every_defense
def test_data_parallel_without_devices(defenses: Any, images: Tensor) -> None:
    one, two = (saplab.defend(small(), *defenses) for _ in range(2))
    parallel = nn.DataParallel(one, device_ids=[])
    assert torch.equal(parallel(images), two(images))
    assert torch.equal(saplab.predict(parallel, images, 3, seed=1), saplab.predict(two, images, 3, seed=1))


def _rank(rank: int, folder: str) -> None:
    """Two steps of training on this rank; keep what it saw."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    net = small()
    defended = saplab.defend(net, saplab.SAP(100), seed=3)
    parallel: Any = nn.parallel.DistributedDataParallel(defended)
    images = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))  # the same on both
    outs = [parallel(images) for _ in range(2)]
    outs[0].square().sum().backward()
    gradients = [p.grad for p in net.parameters()]
    fixed = saplab.predict(parallel, images, 2, seed=1)
    torch.save({"outs": [o.detach() for o in outs], "gradients": gradients, "fixed": fixed}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_ranks_draw_for_themselves(tmp_path: Path, images: Tensor) -> None:
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    outs = [*one["outs"], *two["outs"]]
    assert all(not torch.equal(outs[i], outs[j]) for i in range(4) for j in range(i))
    for mine, theirs in zip(one["gradients"], two["gradients"], strict=True):
        assert torch.equal(mine, theirs)
        assert mine.abs().sum() > 0
    assert torch.equal(one["fixed"], two["fixed"])  # a seed and numbered examples give the same draws anywhere
    alone = saplab.defend(small(), saplab.SAP(100), seed=3)
    torch.testing.assert_close(alone(images), one["outs"][0], atol=1e-5, rtol=1e-4)  # rank 0 draws as a lone process


# --- activation checkpointing ----------------------------------------------------------------------------------------


def non_reentrant(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=False)  # type: ignore[no-any-return]


def reentrant(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=True)  # type: ignore[no-any-return]


@every_defense
@pytest.mark.parametrize("around", [non_reentrant, reentrant])
def test_checkpoints_are_refused(defenses: Any, around: Around, images: Tensor) -> None:
    """Inside a defended network or around it, a checkpoint would run a part again, with other draws or none."""
    x = images.clone().requires_grad_()
    with pytest.raises(ValueError, match="activation checkpointing would run a random or defended part"):
        saplab.defend(small(around), *defenses)(x)
    with pytest.raises(ValueError, match="activation checkpointing would run a random or defended part"):
        around(saplab.defend(small(), *defenses), x)


def test_checkpoints_that_do_nothing_are_let_be(images: Tensor) -> None:
    defended = saplab.defend(small(non_reentrant), saplab.SAP(100)).eval()
    plain = saplab.defend(small(), saplab.SAP(100)).eval()
    assert torch.equal(saplab.predict(defended, images, 2, seed=1), saplab.predict(plain, images, 2, seed=1))


# --- torch.func ------------------------------------------------------------------------------------------------------


@every_defense
def test_functional_call(defenses: Any, images: Tensor) -> None:
    defended = saplab.defend(small(), *defenses)
    doubled = {name: 2 * p.detach() for name, p in defended.named_parameters()}
    other = small()
    other.load_state_dict(doubled)
    with drawing(rows(0)):
        out = functional_call(defended, doubled, (images,))
    with drawing(rows(0)):
        assert torch.equal(out, saplab.defend(other, *defenses)(images))


@every_defense
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # forward mode's own import
def test_transforms_are_right_or_refused(defenses: Any, images: Tensor) -> None:
    defended = saplab.defend(small(), *defenses)
    prunes = any(isinstance(d, saplab.SAP | saplab.StochasticWeightPruning) for d in defenses)

    def loss(x: Tensor) -> Tensor:
        with drawing(rows(0)):
            return defended(x).square().sum()  # type: ignore[no-any-return]

    x = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    for transformed in (grad(loss), jacrev(loss), lambda x: jvp(loss, (x,), (torch.ones_like(x),))[1]):
        if prunes:
            with pytest.raises(ValueError, match=r"torch\.func cannot transform pruning"):
                transformed(images)
            continue
        found = transformed(images)
        torch.testing.assert_close(found, expected if found.dim() else expected.sum(), atol=1e-4, rtol=1e-4)


def test_vmap_is_refused_where_examples_would_share_draws(images: Tensor) -> None:
    for defense in (saplab.SAP(100), saplab.RandomNoisyActivations(0.1)):
        defended = saplab.defend(small(), defense)
        with pytest.raises(ValueError, match=r"inside torch\.vmap"):
            vmap(lambda image, run=defended: run(image.unsqueeze(0))[0])(images)


def test_vmap_over_examples_shares_the_weights_of_a_pass(images: Tensor) -> None:
    defended = saplab.defend(small(), saplab.RandomNoisyWeights(0.1))

    def one(image: Tensor) -> Tensor:
        return defended(image.unsqueeze(0))[0]  # type: ignore[no-any-return]

    with drawing(rows(3)):
        mapped = vmap(one)(images)
    with drawing(rows(3)):
        torch.testing.assert_close(mapped, defended(images), atol=1e-5, rtol=1e-4)


# --- TorchScript -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="`model` is a TorchScript module, whose inside cannot be seen"):
        saplab.defend(torch.jit.trace(small().eval(), images), saplab.SAP(100))


@pytest.mark.skipif(os.environ.get("SAPLAB_TEST_INDUCTOR") != "1", reason="inductor compiles C++ for minutes")
def test_inductor(images: Tensor, compiler: None) -> None:
    defended = saplab.defend(small(), saplab.SAP(100))
    compiled = torch.compile(defended)
    for number in range(3):
        with drawing(rows(number)):
            torch.testing.assert_close(compiled(images), defended(images), atol=1e-5, rtol=1e-4)


def test_parts_whose_inside_cannot_be_seen_are_named() -> None:
    def net(part: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), part, nn.Linear(8, 3)).eval()

    with pytest.raises(ValueError, match=r"the part '2' of the network is compiled"):
        saplab.defend(net(torch.compile(nn.ReLU(), backend="eager")), saplab.SAP(50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls its scripting deprecated
        scripted, function = torch.jit.script(nn.ReLU()), torch.jit.script(F.relu6)
    with pytest.raises(ValueError, match=r"the part '2' of the network is a TorchScript module"):
        saplab.defend(net(scripted), saplab.SAP(50))
    holder = net(nn.ReLU())
    holder.function = function
    with pytest.raises(ValueError, match=r"^the attribute 'function' of the network cannot be copied: .*Script"):
        saplab.defend(holder, saplab.SAP(50))
    part = nn.ReLU()
    part.function = [function]
    with pytest.raises(ValueError, match=r"^the attribute 'function' of the part '2' of the network cannot be copied"):
        saplab.defend(net(part), saplab.SAP(50))


def test_a_defended_graph_of_torch_fx_can_be_copied_and_saved(tmp_path: Path) -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3)).eval())
    defended = saplab.defend(graph, saplab.SAP(50), seed=3)
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.save(defended, tmp_path / "defended.pt")
    for again in (copy.deepcopy(defended), torch.load(tmp_path / "defended.pt", weights_only=False)):
        assert torch.equal(saplab.predict(again, images, 2), saplab.predict(defended, images, 2))
        assert [type(part) for part in again.modules()][1:] == [type(part) for part in defended.modules()][1:]
        assert again.state_dict().keys() == graph.state_dict().keys()
        assert torch.equal(saplab.undefended(again)(images), graph(images))
    assert torch.equal(again(images), defended(images))  # a direct call's draws as well

"""Files of weights: wrapped, damaged, of all kinds of tensors, and with code in them."""

import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fuzz.cases import Canary, Case, call, command, generator
from saplab.models.fitting import fit
from saplab.models.packaged import Packaged
from saplab.models.weights_file import read_states

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "ema", "params", "checkpoint", 0)
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "a.b.")
_BESIDE: tuple[Any, ...] = (3, 0.5, "text", None, [1, 2], {"lr": 0.1}, torch.ones(2), {"x": torch.ones(1)})


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3))


def _state(draw: random.Random) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    own = _network().state_dict()
    return {n: torch.rand(t.shape, generator=generator) if t.is_floating_point() else t for n, t in own.items()}


def _loads(file: Path, state: dict[str, Tensor], right: tuple[int, ...] = (0, 2)) -> Case:
    """Return the case of a file that holds a state, or is refused."""

    def run() -> None:
        network = _network()
        fit(network, read_states(file), str(file))
        own = network.state_dict()
        assert all(torch.equal(own[name], tensor) for name, tensor in state.items() if name.rpartition(".")[2] != "num")

    return call(file.name, run, right)


def _saved(content: Any, folder: Path, draw: random.Random) -> Path:
    file = folder / f"net.{draw.choice(('pt', 'pth', 'ckpt', 'bin', 'tar'))}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file)
    return file


def _wrapped(content: Any, draw: random.Random) -> Any:
    for _ in range(draw.randrange(3)):
        key = draw.choice(_WRAPPERS)
        beside = {f"beside{k}": draw.choice(_BESIDE) for k in range(draw.randrange(3))}
        content = [content, *beside.values()] if key == 0 else {**beside, key: content}
    return content


@generator
def weights_in_wrappers(draw: random.Random, folder: Path) -> Case:
    """A state in up to two wrappers, behind up to two prefixes, with counters: loads, as it is."""
    state = _state(draw)
    prefix = "".join(draw.choice(_PREFIXES) for _ in range(draw.randrange(3)))
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in state.items()}
    if draw.random() < 0.3:
        content[prefix + "0.total_ops"] = torch.zeros(1)
    return _loads(_saved(_wrapped(content, draw), folder, draw), state, (0,))


_CHANGES: tuple[Callable[[Tensor], Any], ...] = (
    lambda t: t.half(), lambda t: t.double(), lambda t: t.bfloat16(), lambda t: t.int(), lambda t: t > 0,
    lambda t: t + 1j, lambda t: t.to_sparse(), lambda t: t.to(torch.float8_e4m3fn), lambda t: t * torch.nan,
    lambda t: t / 0, lambda t: t.reshape(-1), lambda t: t[:0], lambda t: t[None], lambda t: t.to("meta"),
    lambda t: t.tolist(), lambda t: None, lambda t: "text", lambda t: nn.Parameter(t),
    lambda t: t.clone().expand(9, *t.shape),
    lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), lambda t: t.double() * 1e300, lambda t: t.T,
)  # fmt: skip


@generator
def one_tensor_of_another_kind(draw: random.Random, folder: Path) -> Case:
    """One tensor changed in type, layout, shape or values: refused, or its values."""
    state = _state(draw)
    name = draw.choice([name for name, tensor in state.items() if tensor.is_floating_point()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = draw.choice(_CHANGES)(state[name])
    file = _saved({**state, name: changed}, folder, draw)
    kept = isinstance(changed, Tensor) and changed.dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.float32,
    )
    values = changed.float() if kept and changed.layout == torch.strided and not changed.is_meta else state[name]
    return _loads(file, {**state, name: values})


def _damaged(content: bytes, draw: random.Random) -> bytes:
    kind, place = draw.randrange(5), draw.randrange(len(content))
    changed = bytearray(content)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content + draw.randbytes(10)
    for at in [place] if kind == 2 else draw.sample(range(len(content)), min(20, len(content))):
        changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed)


@generator
def damaged_weights_beside_a_checksum(draw: random.Random, folder: Path) -> Case:
    """Any changed byte of weights, or of the file with their checksum, is refused, but in words that decide nothing."""
    import hashlib

    state, file = _state(draw), folder / "net.safetensors"
    save_file(state, file)
    facts = Packaged("net", hashlib.sha256(file.read_bytes()).hexdigest()).to_json()
    target, content = draw.choice(((file, file.read_bytes()), (file.with_suffix(".json"), facts)))
    file.with_suffix(".json").write_bytes(facts)
    target.write_bytes(_damaged(content, draw))
    return _loads(file, state, (2,) if target == file else (0, 2))


@generator
def damaged_pickles(draw: random.Random, folder: Path) -> Case:
    """A damaged file of PyTorch's, through the command line, where no checksum is known."""
    file = _saved(_wrapped(_state(draw), draw), folder, draw)
    file.write_bytes(_damaged(file.read_bytes(), draw))
    return command("evaluate", "--model", "resnet20", "--weights", file.name, right={2})


@generator
def pickles_with_code(draw: random.Random, folder: Path) -> Case:
    """A command in a file where weights, pictures or CIFAR-10 are expected: never run."""
    trap: Any = Canary(folder)
    content = _wrapped(
        draw.choice((trap, {"0.weight": trap}, [trap], {"state_dict": {**_state(draw), "x": trap}})), draw
    )
    kind = draw.randrange(3)
    if kind == 0:
        return _loads(_saved(content, folder, draw), {}, (2,))
    if kind == 1:
        (folder / "net.pt").write_bytes(pickle.dumps(content, protocol=draw.randrange(6)))
        return command("evaluate", "--model", "resnet20", "--weights", "net.pt", right={2})
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=draw.randrange(6)))
    return command("evaluate", "--data", "cifar10:.", right={2})

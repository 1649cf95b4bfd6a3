"""Files of weights as training code writes them: wrappers, prefixes, counters; and tensors that are refused."""

import argparse
import json
import shutil
import warnings
from collections import OrderedDict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from saplab.models.fitting import fit, put_weights
from saplab.models.identity import TAKEN, network_digest
from saplab.models.weights_file import State, read_states
from saplab.models.zoo import Packaged, load_model

State_ = dict[str, Tensor]


class Net(nn.Module):
    """Two layers, a running mean, and a mask whose −inf is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))


def state(seed: int = 0) -> State_:
    """Return numbers that a new network does not have."""
    generator = torch.Generator().manual_seed(seed)
    own = Net().state_dict()
    found = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in own.items()}
    return {**found, "mask": own["mask"], "bn.num_batches_tracked": torch.tensor(seed)}


def under(prefix: str, tensors: State_) -> State_:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def loaded(content: Any, tmp_path: Path, name: str = "net.pt") -> tuple[State_, str]:
    path = tmp_path / name
    save_file(content, path) if name.endswith(".safetensors") else torch.save(content, path)
    model = Net()
    words = fit(model, read_states(path), "FILE")
    return model.state_dict(), words


def equal(one: State_, other: State_) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


S = state()
AVERAGE = state(1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (S, ""),
        (under("_orig_mod.", S), ""),
        (under("module._orig_mod.", S), "the weights are module of FILE"),
        ({name.replace("conv.", "conv._orig_mod."): tensor for name, tensor in S.items()}, ""),
        ({"state_dict": under("model.", S), "epoch": 3}, "the weights are state_dict.model of FILE"),
        ({"net": under("module.", S), "acc": 91.0, "epoch": 9}, "the weights are net.module of FILE"),
        ({"epoch": 3, "model_state_dict": S, "loss": torch.tensor(2.0)}, "the weights are model_state_dict of FILE"),
        ({"state_dict": {**under("net.", S), "criterion.weight": torch.ones(2)}},
         "the weights are state_dict.net of FILE; passed over: criterion.weight"),
        ({"models": [{"other": torch.ones(2)}, S]}, "the weights are models[1] of FILE"),
        ([{"model": S}, {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}],
         "the weights are [0].model of FILE"),
        ({**S, "total_ops": torch.zeros(1), "conv.total_params": torch.zeros(1), "epoch": 3}, ""),
        ({**under("module.", S), "n_averaged": torch.tensor(4)}, "the weights are module of FILE"),
        ({"model": S, "args": argparse.Namespace(lr=0.1), "best": np.float64(93.1), "n": np.int64(3)},
         "the weights are model of FILE"),
        ({"anything": {"inner": S}}, "the weights are anything.inner of FILE"),
        (OrderedDict({name: tensor for name, tensor in S.items() if "num_batches" not in name}), ""),
    ],
    ids=str,
)  # fmt: skip
def test_weights_are_found_in_their_wrappers(content: Any, words: str, tmp_path: Path) -> None:
    found, said = loaded(content, tmp_path)
    if "bn.num_batches_tracked" not in S or words == "":
        found["bn.num_batches_tracked"] = S["bn.num_batches_tracked"]
    assert equal(found, S)
    assert said == words


@pytest.mark.parametrize("prefix", ["", "module.", "net.model.", "encoder."])
def test_safetensors_are_found_likewise(prefix: str, tmp_path: Path) -> None:
    found, said = loaded(under(prefix, S), tmp_path, "net.safetensors")
    assert equal(found, S)
    assert said == (f"the weights are {prefix.rstrip('.')} of FILE" if prefix else "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": S, "state_dict_ema": AVERAGE}, "state_dict_ema of FILE; passed over: state_dict"),
        ({"model": S, "model_ema": AVERAGE}, "model_ema of FILE; passed over: model"),
        ({"net": S, "ema": {"shadow": AVERAGE}}, "ema.shadow of FILE; passed over: net"),
        ({**under("online_model.", S), **under("ema_model.", AVERAGE)},
         "ema_model of FILE; passed over: online_model"),
    ],
)  # fmt: skip
def test_averaged_weights_come_first_as_timm_has_it(content: Any, words: str, tmp_path: Path) -> None:
    found, said = loaded(content, tmp_path)
    assert equal(found, AVERAGE)
    assert said == f"the weights are {words}"


def test_weights_of_another_architecture_with_the_same_names_are_refused(tmp_path: Path) -> None:
    facts = Path(str(resources.files("saplab") / "models/weights"))
    shutil.copy(facts / "preact-resnet20-lwta.safetensors", tmp_path / "lwta.safetensors")
    shutil.copy(facts / "preact-resnet20-lwta.json", tmp_path / "lwta.json")
    with pytest.raises(ValueError, match="of the architecture 'lwta-resnet20', not 'preact-resnet20'"):
        load_model("preact-resnet20", tmp_path / "lwta.safetensors")
    assert load_model("lwta-resnet20", tmp_path / "lwta.safetensors").state_dict()


def test_two_networks_that_fit_are_not_guessed_between(tmp_path: Path) -> None:
    message = "FILE holds several networks that fit: state_dict.teacher, state_dict.student; save the one"
    with pytest.raises(ValueError, match=message):
        loaded({"state_dict": {**under("teacher.", S), **under("student.", AVERAGE)}}, tmp_path)
    with pytest.raises(ValueError, match=r"several networks that fit: \[0\], \[1\]"):
        loaded([S, AVERAGE], tmp_path)
    assert loaded([S, dict(S)], tmp_path)[1] == "the weights are [0] of FILE; passed over: [1]"


def quantised(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


W = S["conv.weight"]


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("conv.weight", quantised(W), "conv.weight must not be quantised, got torch.qint8; save the dequantised"),
        ("conv.weight", W.to_sparse(), "conv.weight must be a dense tensor, got one of layout torch.sparse_coo"),
        ("conv.weight", W + 1j, "conv.weight must be of type torch.float32 or one like it, got torch.complex64"),
        ("conv.weight", W.to(torch.float8_e4m3fn), "must be of type torch.float32 or one like it, got torch.float8"),
        ("conv.weight", (W * 99).to(torch.int8), "must be of type torch.float32 or one like it, got torch.int8"),
        ("conv.weight", W[:1], r"conv.weight must have shape \(2, 1, 3, 3\), got \(1, 1, 3, 3\)"),
        ("conv.weight", W.to("meta"), "conv.weight must be a dense tensor, got one without numbers of its own"),
        ("conv.weight", W.double() * 1e300, "conv.weight must be finite"),
        ("conv.weight", torch.full_like(W, -torch.inf), "conv.weight must be finite"),
        ("mask", torch.full((3, 3), -torch.inf), "mask must be finite"),
        ("mask", torch.full((3, 3), torch.nan), "mask must be finite"),
        ("bn.num_batches_tracked", torch.tensor(0.5), "bn.num_batches_tracked must be of type torch.int64"),
        ("extra.weight", torch.ones(2), "has unexpected extra.weight"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(name: str, tensor: Tensor, message: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {**S, name: tensor}}, tmp_path / "net.pt")
    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        fit(model, read_states(tmp_path / "net.pt"), "FILE")
    assert "\n" not in str(caught.value)
    assert equal(model.state_dict(), before)


@pytest.mark.parametrize("name", ["conv.weight", "mask"])
def test_weights_that_are_missing_are_named(name: str, tmp_path: Path) -> None:
    torch.save({key: tensor for key, tensor in S.items() if key != name}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=f"^FILE lacks {name}$"):
        fit(Net(), read_states(tmp_path / "net.pt"), "FILE")


def test_half_precision_is_taken_as_it_is() -> None:
    model = Net()
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in S.items()}
    put_weights(model, half, "FILE")
    assert torch.equal(model.conv.weight, half["conv.weight"].float())


def test_whole_numbers_are_never_cut_off() -> None:
    model = nn.Module()
    model.register_buffer("levels", torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"must fit into torch\.uint8, got torch\.int64 with larger values"):
        put_weights(model, {"levels": torch.tensor([1, 256])}, "FILE")


class Renamed(nn.Linear):
    """A layer that reads the names of its older version, as torchvision's vision transformers do."""

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if prefix + "w" in state_dict:
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "w")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_a_networks_own_reading_of_old_names_is_followed() -> None:
    model, weight = nn.Sequential(Renamed(2, 3)), torch.rand(3, 2)
    assert fit(model, [State("", {"module.0.w": weight, "module.0.bias": torch.ones(3)})], "FILE")
    assert torch.equal(model[0].weight, weight)
    with pytest.raises(ValueError, match=r"FILE lacks 0\.weight and has unexpected 0\.v"):
        fit(model, [State("", {"0.v": weight, "0.bias": torch.ones(3)})], "FILE")


def test_what_was_taken_is_kept_and_decides_no_key(tmp_path: Path) -> None:
    plain = load_model("preact-resnet20-dense")
    torch.save({"model": under("module.", plain.state_dict())}, tmp_path / "net.pth.tar")
    model = load_model("preact-resnet20", tmp_path / "net.pth.tar")
    assert getattr(model, TAKEN) == f"the weights are model.module of {tmp_path / 'net.pth.tar'}"
    assert network_digest(model) == network_digest(plain)


FACTS = Packaged("net", "0" * 64).to_json()


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (FACTS, r"net\.pt is damaged or another file than net\.json says: SHA-256 must be 0000"),
        (FACTS[:-20], r"net\.json may hold the checksum of the weights and cannot be read: it is no JSON"),
        (b"", r"net\.json may hold the checksum of the weights and cannot be read"),
        (b"\xff\xfe", r"net\.json may hold the checksum of the weights and cannot be read"),
        (FACTS.replace(b"sha256", b"sha255"), r"net\.json should hold the checksum of the weights and is damaged"),
        (FACTS.replace(b"architecture", b"architecturf"), r"net\.json should hold the checksum .* and is damaged"),
        (json.dumps({"sha256": 3}).encode(), r"net\.json should hold the checksum of the weights and is damaged"),
    ],
)  # fmt: skip
def test_a_checksum_that_cannot_be_read_is_no_missing_one(beside: bytes, message: str, tmp_path: Path) -> None:
    torch.save(S, tmp_path / "net.pt")
    (tmp_path / "net.json").write_bytes(beside)
    with pytest.raises(ValueError, match=message) as caught:
        read_states(tmp_path / "net.pt")
    assert "\n" not in str(caught.value)


def test_a_checksum_that_is_a_folder_is_said(tmp_path: Path) -> None:
    torch.save(S, tmp_path / "net.pt")
    (tmp_path / "net.json").mkdir()
    with pytest.raises(ValueError, match=r"net\.json may hold the checksum .* cannot be read: it is no file"):
        read_states(tmp_path / "net.pt")


@pytest.mark.parametrize("beside", [b'{"not": "ours"}', b"[]", b"3"])
def test_somebody_elses_json_beside_weights_is_ignored(beside: bytes, tmp_path: Path) -> None:
    torch.save(S, tmp_path / "net.pt")
    (tmp_path / "net.json").write_bytes(beside)
    assert len(read_states(tmp_path / "net.pt")) == 1


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"])
def test_one_part_of_several_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"{name} is one part of weights in several files; save them as one file"):
        read_states(tmp_path / name)


def test_equal_copies_load_with_or_without_counters_and_beside_keys_that_are_no_names(tmp_path: Path) -> None:
    counted = S | {"bn.num_batches_tracked": torch.tensor(3)}
    bare = {name: tensor for name, tensor in S.items() if name != "bn.num_batches_tracked"}
    for content in ({"model": bare, "net": counted}, {"model": counted, "net": bare}, {"state_dict": {**S, 3: S}}):
        found = loaded(content, tmp_path)[0]
        assert equal({name: found[name] for name in bare}, bare)

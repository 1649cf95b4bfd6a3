"""Agents in files: the package's own, Stable-Baselines3's zips, and plain state_dicts."""

import hashlib
import io
import json
import os
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from saplab.models.identity import weights_digest
from saplab.models.qnetwork import new_network
from saplab.rl import agents
from saplab.rl.agents import Facts, load_agent, pack, shipped, unpack, write_agent
from saplab.rl.formats import read_agent

FACTS = Facts("bowling", "small", 1_000, 0, "0" * 64, (30.0, 40.0), (20.0, 25.0))
LAYERS = ("conv1", "conv2", "conv3", "hidden", "head")
CLEANRL = ("network.0", "network.2", "network.4", "network.7", "network.9")
BASELINES = ("features_extractor.cnn.0", "features_extractor.cnn.2", "features_extractor.cnn.4",
             "features_extractor.linear.0", "q_net.0")  # fmt: skip


def renamed(network, names, prefix=""):
    state = network.state_dict()
    pairs = zip(LAYERS, names, strict=True)
    kinds = ("weight", "bias")
    return {f"{prefix}{n}.{kind}": state[f"{layer}.{kind}"].contiguous() for layer, n in pairs for kind in kinds}


def zipped(path, content, member="policy.pth"):
    data = io.BytesIO()
    torch.save(content, data)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {":serialized:": "gASV"}}))
        archive.writestr(member, data.getvalue())
    return path


def same(one, other):
    return weights_digest(one) == weights_digest(other)


def test_a_zip_of_stable_baselines_gives_the_network_that_learned(tmp_path):
    own, target = new_network(6, 1), new_network(6, 2)
    content = {**renamed(own, BASELINES, "q_net."), **renamed(target, BASELINES, "q_net_target.")}
    network = read_agent(zipped(tmp_path / "dqn.zip", content))
    assert same(network, own)
    assert not network.training


@pytest.mark.parametrize("names", [CLEANRL, LAYERS, ("a", "b", "c", "d", "e")])
def test_a_state_dict_is_known_by_its_shapes(tmp_path, names):
    own = new_network(9, 1)
    torch.save(renamed(own, names), tmp_path / "agent.pt")
    save_file(renamed(own, names), tmp_path / "agent.safetensors")
    assert same(read_agent(tmp_path / "agent.pt"), own)
    assert same(read_agent(tmp_path / "agent.safetensors"), own)


def test_other_networks_are_refused(tmp_path):
    own = renamed(new_network(6, 1), CLEANRL)
    cases = {
        "none": {name: tensor for name, tensor in own.items() if "network.4" not in name},
        r"several \(network.9.weight, value.weight\)": {**own, "value.weight": torch.zeros(1, 512)},
        "no bias beside network.0.weight": {name: tensor for name, tensor in own.items() if name != "network.0.bias"},
        "must be finite": {**own, "network.9.bias": torch.full((6,), torch.nan)},
    }
    for message, state in cases.items():
        torch.save(state, tmp_path / "agent.pt")
        with pytest.raises(ValueError, match=message):
            read_agent(tmp_path / "agent.pt")


class Harmful:
    def __reduce__(self):
        return os.abort, ()


def test_zips_that_are_no_agents_are_refused_and_run_no_code(tmp_path):
    with pytest.raises(ValueError, match="cannot be read with weights_only=True"):
        read_agent(zipped(tmp_path / "harmful.zip", {"q_net.x": Harmful()}))
    with pytest.raises(ValueError, match=r"it holds no policy\.pth"):
        read_agent(zipped(tmp_path / "other.zip", {}, member="weights.pth"))
    with pytest.raises(ValueError, match=r"no tensor's name begins with q_net\."):
        read_agent(zipped(tmp_path / "ppo.zip", {"mlp.weight": torch.zeros(1)}))
    (tmp_path / "broken.zip").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read"):
        read_agent(tmp_path / "broken.zip")
    for name in ("absent.zip", "absent.pt"):
        with pytest.raises(FileNotFoundError):
            read_agent(tmp_path / name)


def test_a_packed_agent_comes_back_rounded_to_float16():
    network = new_network(4, 0)
    content = pack(network)
    assert pack(network) == content
    assert len(content) < 2 * sum(p.numel() for p in network.parameters()) + 2_000
    back = unpack(content)
    for own, other in zip(network.parameters(), back.parameters(), strict=True):
        assert torch.equal(own.to(torch.float16).float(), other)
    assert same(unpack(pack(back)), back)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that ships one agent, for Bowling."""
    pytest.importorskip("ale_py")
    content = pack(new_network(6, 3))
    digest = hashlib.sha256(content).hexdigest()
    write_agent(tmp_path, content, replace(FACTS, sha256=digest), "# card")
    for name, ending in ((agents.MODEL, "safetensors"), (agents.FACTS, "json"), (agents.CARD, "md")):
        (tmp_path / name).rename(tmp_path / f"bowling.{ending}")
    monkeypatch.setattr(agents.resources, "files", lambda package: tmp_path)
    return tmp_path


def test_a_shipped_agent_is_found_by_its_game(package):
    assert shipped() == ("bowling",)
    assert same(load_agent("Bowling"), unpack(pack(new_network(6, 3))))
    assert agents.facts_of("Bowling").scores == (30.0, 40.0)
    with pytest.raises(
        ValueError, match=r"no agent ships for Assault \(those that do: bowling\).* train-agent Assault"
    ):
        load_agent("Assault")


def test_a_damaged_shipped_agent_is_refused(package):
    content = bytearray((package / "bowling.safetensors").read_bytes())
    content[-1] ^= 1
    (package / "bowling.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="packaged agent of Bowling is damaged"):
        load_agent("Bowling")


def test_facts_come_back_as_they_were():
    assert Facts.from_json(FACTS.to_json()) == FACTS

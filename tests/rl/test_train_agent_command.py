"""``saplab train-agent`` on the toy game: its files, its options, and that it goes on."""

import json
from pathlib import Path

import pytest
import torch
import typer
from catch import Catch, CatchNetwork
from safetensors.torch import load
from typer.testing import CliRunner

from saplab.cli.verbs import train_agent as cli
from saplab.models import qnetwork
from saplab.rl import agents, atari, play
from saplab.rl.agents import Facts
from saplab.system.precision import resolve_precision


def unpacked(content: bytes) -> CatchNetwork:
    network = CatchNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in load(content).items()})
    return network.eval()


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atari, "rom_name", str.lower)
    monkeypatch.setattr(atari, "Games", lambda rom, count, sticky, threads: Catch(count))
    monkeypatch.setattr(play, "Games", lambda rom, count, sticky, max_frames: Catch(count))
    monkeypatch.setattr(qnetwork, "new_network", lambda actions, seed: CatchNetwork(seed))
    monkeypatch.setattr(agents, "unpack", unpacked)


def command(*arguments: str) -> tuple[str, str]:
    app = typer.Typer()
    app.command("train-agent")(cli.train_agent)
    app.command("other")(lambda: None)  # one command alone would have no name
    result = CliRunner().invoke(app, ["train-agent", "Catch", "--preset", "smoke", "--threads", "1", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout, result.stderr


def test_a_run_leaves_its_files_and_goes_on(tmp_path: Path) -> None:
    options = ("--episodes", "3", "--n-step", "2", "--reward-scale", "5", "--out", str(tmp_path))
    stdout, stderr = command("--steps", "1024", *options, "--json")
    result = json.loads(stdout)
    assert (result["game"], result["steps"], len(result["scores"]), len(result["random_scores"])) == (
        "catch",
        1024,
        3,
        3,
    )
    lines = stderr.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["step 512 of 1,024", "step 1,024 of 1,024"]
    assert "evaluation" in lines[1]
    assert "evaluation" not in lines[0]
    facts = Facts.from_json((tmp_path / "agent.json").read_text())
    assert facts.scores == tuple(result["scores"])
    network = unpacked((tmp_path / "model.safetensors").read_bytes())
    card = (tmp_path / "card.md").read_text()
    assert all(f"- {line}\n" in card for line in ("n_step: 2", "reward_scale: 5.0", "steps: 1024", "preset: smoke"))
    assert f", 1 thread, cpu, {resolve_precision('auto', 'cpu')}; PyTorch" in card
    assert (tmp_path / "history.svg").read_text().startswith("<svg")
    _, stderr = command("--steps", "1024", *options)
    assert stderr == "goes on after step 1,024 of 1,024\n"
    again = unpacked((tmp_path / "model.safetensors").read_bytes())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    _, stderr = command("--steps", "1536", *options)
    assert stderr.splitlines()[1].startswith("step 1,536 of 1,536: loss ")


def test_what_decides_a_run_is_in_its_request(tmp_path: Path) -> None:
    command("--steps", "512", "--episodes", "2", "--out", str(tmp_path))
    for option in (("--seed", "1"), ("--n-step", "3"), ("--reward-scale", "2"), ("--sticky", "0.25")):
        with pytest.raises(ValueError, match="belongs to another run"):
            command("--steps", "512", "--episodes", "2", "--out", str(tmp_path), *option)


def test_an_interval_needs_two_games(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`episodes` must be >= 2 for an interval, got 1"):
        command("--episodes", "1", "--out", str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--episodes", 10**20, "`episodes` must be at most"), ("--seed", 10**20, r"`seed` must be in 0 \.\. 2\*\*63 - 1")],
)
def test_numbers_that_nobody_can_use_are_refused_at_once(option: str, value: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        command(option, str(value), "--out", str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()

"""``saplab play`` and ``saplab train-agent``, from the words of the command line to tables and files."""

import importlib.util
import json

import numpy as np
import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from saplab.cli import app
from saplab.models.qnetwork import new_network

MISSING = [name for name in ("ale_py", "gymnasium") if importlib.util.find_spec(name) is None]
needs_ale = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra rl: {', '.join(MISSING)} is not installed")


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@needs_ale
@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("--max-frames", 0, ValueError, "`max_frames` must be within"),
        ("--video", "x.mp4", ValueError, "`video` must end in .gif"),
        ("--video", "nowhere/x.gif", FileNotFoundError, "there is no such folder for `video`"),
        ("--passes", 0, ValueError, "`passes` must be >= 1"),
    ],
)
def test_play_refuses_what_cannot_be_before_it_plays(option, value, error, message, tmp_path):
    found = invoke("play", "Assault", option, value, "--out", tmp_path / "run")
    assert isinstance(found.exception, error)
    assert message in str(found.exception)
    assert not (tmp_path / "run").exists()


@needs_ale
def test_play_shows_a_table_and_goes_on_where_it_stopped(tmp_path):
    network = new_network(7, 0)
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, tmp_path / "agent.safetensors")
    words = ("play", "Assault", "--agent", tmp_path / "agent.safetensors", "--defense", "sap:100", "--lambda", "0,8",
             "--episodes", 2, "--seeds", 1, "--samples", 1, "--passes", 1, "--max-frames", 160, "--out",
             tmp_path / "run", "--video", tmp_path / "clip.gif", "--json")  # fmt: skip
    first = invoke(*words)
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout.splitlines()[-1])
    assert [(row["agent"], row["strength"]) for row in found["rows"]] == [
        ("original", 0.0), ("original", 8.0), ("SAP-100, mask backward", 0.0), ("SAP-100, mask backward", 8.0)
    ]  # fmt: skip
    assert all(row["games"] == 2 for row in found["rows"])
    stored = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").iterdir()}
    assert len(stored) == 4
    again = invoke(*words)
    assert json.loads(again.stdout.splitlines()[-1]) == found
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").iterdir()} == stored
    assert "games:" not in again.stderr
    assert "points in assault" in again.stderr
    assert "4 of 4 cells already there" in again.stderr
    assert (tmp_path / "clip.gif").stat().st_size > 1_000


@needs_ale
def test_attacks_of_many_steps_see_the_newest_frame_alone(tmp_path):
    network = new_network(7, 0)
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, tmp_path / "agent.safetensors")
    words = ("play", "Assault", "--agent", tmp_path / "agent.safetensors", "--defense", "sap:100", "--lambda", "8",
             "--attack", "pgd:steps=2+square:queries=2,passes=2", "--newest-frame", "--episodes", 2, "--seeds", 1,
             "--samples", 2, "--passes", 1, "--max-frames", 40, "--out", tmp_path / "run", "--json")  # fmt: skip
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert [row["agent"] for row in json.loads(result.stdout.splitlines()[-1])["rows"]] == [
        "original, PGD-2, newest frame", "original, Square-2, newest frame",
        "SAP-100, PGD-2 ×2, mask backward, newest frame", "SAP-100, Square-2 ×2, newest frame",
    ]  # fmt: skip
    many = ("--attack", "fgsm+fgsm:samples=4+fgsm:backward=identity+pgd:steps=2+pgd:steps=2,restarts=2+noise")
    without = [word for word in words[:-1] if word not in ("--attack", words[words.index("--attack") + 1])]
    without = [word for word in without if word not in ("--lambda", "8")]
    more = invoke(*without, *many, "--adversary", "dense", "--no-newest-frame", "--eps", "8/255",
                  "--json")  # fmt: skip
    assert more.exit_code == 0, more.output
    labels = [row["agent"] for row in json.loads(more.stdout.splitlines()[-1])["rows"]]
    assert labels == [
        "original", "original, PGD-2", "original, PGD-2 restarts=2", "original, random noise",
        "SAP-100, gradient of the original", "SAP-100, PGD-2, gradient of the original",
        "SAP-100, PGD-2 restarts=2, gradient of the original", "SAP-100, random noise",
    ]  # fmt: skip


@needs_ale
def test_train_agent_writes_an_agent_that_play_takes(tmp_path):
    words = ("train-agent", "Assault", "--preset", "smoke", "--steps", 1024, "--threads", 1, "--episodes", 2, "--out",
             tmp_path, "--json")  # fmt: skip
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["game"], found["steps"], len(found["scores"])) == ("assault", 1_024, 2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "agent.json", "card.md", "checkpoint.safetensors", "history.jsonl", "history.png", "history.svg",
        "model.safetensors",
    }  # fmt: skip
    played = invoke("play", "Assault", "--agent", tmp_path / "model.safetensors", "--lambda", "0", "--episodes", 2,
                    "--seeds", 1, "--out", tmp_path / "games", "--json")  # fmt: skip
    assert json.loads(played.stdout.splitlines()[-1])["rows"][0]["points"] == np.mean(found["scores"])


@pytest.mark.parametrize(
    ("words", "message"),
    [(("play", "Assault", "--adversary", "nobody"), "`adversary` must be self or dense, got 'nobody'"),
     (("play", "Assault", "--seeds", "0"), "`seeds` must be >= 1, got 0"),
     (("train-agent", "Assault", "--episodes", "1"), "`episodes` must be >= 2"),
     (("train-agent", "Assault", "--threads", "0"), "`threads` must be >= 1, got 0"),
     (("train-agent", "Assault", "--device", "cuda:99"), "`device` must be auto, cpu or a device that is there"),
     (("train-agent", "Assault", "--preset", "huge"), "`preset` must be one of paper, small, gpu, smoke")],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(words, message):
    result = invoke(*words)
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)

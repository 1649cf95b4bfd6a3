"""``saplab evaluate`` from end to end: as from Python, twice, after a kill, in other batches; clear mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from saplab import SAP, defend, evaluate, load_model
from saplab.cli.advice import in_options
from saplab.evaluation.text import finding_text, rows_text, verdict_text
from saplab.runs import Store

FACTORY = """
import torch
from torch import nn
from saplab.models.initialise import initialise

def small():
    return initialise(nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)), 0)

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))

class Pair(nn.Module):
    def forward(self, x):
        return x.relu(), x

def pair():
    return Pair()

class Fragile(nn.Module):
    def forward(self, x):
        if (x.flatten(1).amin(1) > 0.95).any():
            raise RuntimeError("too bright")
        return x.relu().mean((2, 3))

def fragile():
    return Fragile()
"""
OWN = """
from dataclasses import dataclass
import saplab
from saplab.attacks import Cost

@dataclass(frozen=True)
class Noise(saplab.Defense):
    std: float
    def input(self, x, draw):
        return x + self.std * draw.normal(x.shape)

@dataclass(frozen=True)
class Brighter(saplab.Attack):
    knowledge = "nothing"
    title = "more light"
    def ascending(self, problem, radii):
        return (problem.project(problem.images + eps, eps) for eps in radii)
    def cost(self, eps):
        return Cost(0, 0)
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "mine.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    images, labels = rng.random((40, 3, 16, 16), np.float32), rng.integers(0, 4, 40)
    np.savez(folder / "data.npz", images=images, labels=labels)
    np.savez(folder / "grey.npz", images=images[:, :1], labels=labels)
    np.savez(folder / "bright.npz", images=images * 255, labels=labels)
    np.savez(folder / "labels.npz", images=images, labels=labels + 4)
    white = np.where(np.arange(40)[:, None, None, None] == 35, np.float32(1), images)
    np.savez(folder / "white.npz", images=white, labels=labels % 3)
    (folder / "parts.py").write_text(OWN)
    return folder


def command(*arguments: str) -> list[str]:
    options = ["--model", "mine:small", "--data", "data.npz", "--defense", "sap:100", "--samples", "3", "--passes", "4"]
    attack = [] if "--attack" in arguments else ["--attack", "fgsm"]
    return [sys.executable, "-m", "saplab", "evaluate", *options, *attack, *arguments]


def saplab(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def stored(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each curve's probabilities and votes (L, N, C), its cells put together."""
    store = Store.read(root)
    result = {}
    for curve in store.request.curves:
        cells = [store.load(cell) for cell in curve.cells]
        result[curve.label] = tuple(np.concatenate([getattr(c, n) for c in cells], 1) for n in ("probs", "votes"))
    return result  # type: ignore[return-value]


@pytest.fixture(scope="module")
def reference(workplace: Path) -> Path:
    done = saplab(workplace, "--batch-size", "10", "--out", "reference", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {row["curve"] for row in result["rows"]} == {"undefended: FGSM", "SAP-100: MC-FGSM ×3 mask"}
    assert len(result["rows"]) == 10
    assert (workplace / "reference" / "report.html").stat().st_size > 100_000
    return workplace / "reference"


def test_the_same_command_gives_the_same_bits(workplace: Path, reference: Path) -> None:
    done = saplab(workplace, "--batch-size", "10", "--out", "again", "--json")
    assert done.returncode == 0, done.stderr
    first, second = stored(reference), stored(workplace / "again")
    assert first.keys() == second.keys()
    assert len(first) == 2
    for name, arrays in first.items():
        assert all(map(np.array_equal, arrays, second[name]))


def test_a_finished_run_is_not_computed_again(workplace: Path, reference: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (reference / "cells").iterdir()}
    done = saplab(workplace, "--batch-size", "10", "--out", "reference")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in (reference / "cells").iterdir()} == before
    assert "8 of 8 cells already there" in done.stdout


def test_other_batches_give_the_same_numbers_up_to_rounding(workplace: Path, reference: Path) -> None:
    done = saplab(workplace, "--batch-size", "17", "--out", "batches")
    assert done.returncode == 0, done.stderr
    for name, (probs, votes) in stored(reference).items():
        others = stored(workplace / "batches")[name]
        np.testing.assert_allclose(probs, others[0], atol=1e-5)
        assert (votes == others[1]).mean() > 0.99


def test_a_killed_run_goes_on(workplace: Path, reference: Path) -> None:
    arguments = command("--batch-size", "10", "--out", "killed")
    run = subprocess.Popen(arguments, cwd=workplace, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = workplace / "killed" / "cells"
    deadline = time.monotonic() + 120
    while not (cells.is_dir() and any(cells.glob("*.safetensors"))) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    first = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.safetensors")}
    assert first
    done = subprocess.run(arguments, cwd=workplace, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert all((cells / name).stat().st_mtime_ns == stamp for name, stamp in first.items())
    for name, (probs, votes) in stored(reference).items():
        assert np.array_equal(probs, stored(workplace / "killed")[name][0])
        assert np.array_equal(votes, stored(workplace / "killed")[name][1])


def test_a_damaged_cell_is_named_and_computed_again(workplace: Path, reference: Path) -> None:
    victim = sorted((reference / "cells").iterdir())[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    done = saplab(workplace, "--batch-size", "10", "--out", "reference")
    assert done.returncode == 0, done.stderr
    assert victim.name in done.stdout
    assert Store.read(reference).survey().missing == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "preact-resnet21"], "preact-resnet20"),
        (["--model", "mine:nothing"], "has no attribute 'nothing'"),
        (["--model", "nowhere:net"], "cannot be imported"),
        (["--weights", "absent.safetensors"], "absent.safetensors is missing"),
        (["--data", "absent.npz"], "absent.npz"),
        (["--data", "grey.npz"], "error: grey.npz: the network cannot take torch.float32 images of shape (1, 16, 16)"),
        (["--data", "cifar10:absent"], "absent"),
        (["--data", "folder"], "`data` must be"),
        (["--data", "bright.npz"], "[0, 1]"),
        (["--data", "labels.npz"], "must lie in 0..3 for this network, got 4..7"),
        (["--limit", "0"], "`limit` must be >= 1"),
        (["--limit", "41"], "at most 40"),
        (["--defense", "sap:0"], "`percent` must be > 0"),
        (["--defense", "sap:-5"], "`percent` must be > 0"),
        (["--defense", "sap:0.1"], "gives no draw at site"),
        (["--defense", "rna"], "`defense` rna needs a value for std"),
        (["--defense", "snap:100"], "`defense` must be one of"),
        (["--model", "mine:linear"], "no activation function"),
        (["--model", "mine:pair"], "must return a tensor of logits"),
        (["--sites", "9*"], "selects none"),
        (
            ["--attack", "fast"],
            "`attack` must be one of quick, standard, paper, adaptive, ",
        ),
        (["--adversary", "me"], "`adversary` must be self or dense"),
        (["--lambda", "0,-1"], "within [0, 255]"),
        (["--lambda", "0,300"], "within [0, 255]"),
        (["--lambda", "0,zero"], "numbers joined by commas"),
        (["--lambda", "1,1"], "twice"),
        (["--eps", "2"], "`eps` must be within [0, 1], got 2"),
        (["--norm", "l1"], "`norm` must be one of linf, l2, got 'l1'"),
        (["--norm", "l2", "--lambda", "4"], "`lambda` counts pixel steps of [0, 1] images in L∞; give `eps` 0.5 in L2"),
        (["--norm", "l2", "--attack", "pgd:lambda=64"], "`lambda` counts pixel steps of [0, 1] images in L∞"),
        (["--bounds", "none"], "`eps` must be given where `bounds` is None"),
        (["--bounds", "0"], "`bounds` must be two numbers joined by a comma, such as 0,1, or none, got '0'"),
        (["--bounds", "0,0.5"], "`images` must lie in [0, 0.5]"),
        (["--samples", "0"], "`samples` must be >= 1"),
        (["--passes", "0"], "`passes` must be >= 1"),
        (["--backward", "through"], "`backward` must be one of"),
        (["--seed", "-1"], "`seed` must be an integer >= 0"),
        (["--precision", "int8"], "`precision` must be one of"),
        (["--batch-size", "0"], "`batch_size` must be >= 1"),
        (["--threads", "0"], "`threads` must be >= 1"),
        (["--out", "data.npz"], "data.npz is a file"),
        (["--attack", "pgd:step=3"], "`attack` pgd has no setting 'step'; it has samples, backward, average, loss"),
        (["--attack", "pgd:steps=many"], "`attack` setting steps must be a whole number, got 'many'"),
        (["--attack", "pgd:steps"], "`attack` settings are written NAME=VALUE"),
        (["--attack", "fgsm+square:queries=0"], "`queries` must be >= 1"),
        (["--fail-below", "140"], "`fail_below` must be within [0, 100] %, got 140"),
        (["--device", "cuda:77"], "`device` must be auto, cpu or a device that is there, got 'cuda:77'"),
        (["--seeds", "0"], "`seeds` must be >= 1, got 0"),
        (["--out", "."], "holds other files"),
    ],
)
def test_mistakes_end_in_one_line(arguments: list[str], message: str, workplace: Path, runner: "Runner") -> None:
    code, stderr = runner(workplace, [*command()[3:], "--out", "mistake", *arguments])
    assert code == 2, stderr
    assert message in stderr
    assert len([line for line in stderr.splitlines() if "error:" in line]) == 1
    assert "Traceback" not in stderr
    assert not (workplace / "mistake").exists()


def test_another_request_leaves_the_first_alone(workplace: Path, reference: Path, runner: "Runner") -> None:
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    code, stderr = runner(workplace, [*command()[3:], "--batch-size", "10", "--out", "reference", "--passes", "5"])
    assert code == 2
    assert "holds another request (curve 'SAP-100: MC-FGSM ×3 mask': passes 4, not 5)" in stderr
    assert {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()} == before


def test_python_prints_the_same_table_and_verdict(
    workplace: Path, runner: "Runner", monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--attack", "standard", "--eps", "8/255", "--limit", "20", "--out", "same"]
    code, stderr = runner(workplace, command(*words)[3:])
    assert code == 0, stderr
    net, data = load_model("mine:small"), np.load("data.npz")
    images, labels = data["images"][:20], data["labels"][:20]
    sap = defend(net, SAP(100))
    asked = {"attacks": "standard", "eps": 8 / 255, "passes": 4, "samples": 3, "progress": False}
    result = evaluate(sap, images, labels, **asked)
    assert rows_text(result.summary.rows) in runner.out
    assert verdict_text(result.verdict, in_options) in runner.out
    assert finding_text(result.verdict) in runner.out
    before = {path: path.stat().st_mtime_ns for path in Path("same/cells").iterdir()}
    assert evaluate(sap, images, labels, out="same", **asked).rows == result.rows  # the same cells
    assert {path: path.stat().st_mtime_ns for path in Path("same/cells").iterdir()} == before


def test_attacks_given_one_by_one_are_all_run(workplace: Path, runner: "Runner") -> None:
    """As the checks advise: add --attack X."""
    options = [*command()[3:], "--limit", "10", "--dry-run"]
    assert runner(workplace, [*options, "--attack", "fgsm", "--attack", "noise"])[0] == 0
    assert "random noise" in runner.out
    assert "FGSM" in runner.out


def test_clean_images_and_either_unit_and_spelling(workplace: Path, runner: "Runner") -> None:
    options = [*command()[3:], "--limit", "10", "--defense", "", "--defence", "sap:50"]
    assert runner(workplace, [*options, "--lambda", "8", "--out", "units"])[0] == 0
    shown = runner.out
    assert re.search("^accuracy, % +λ = 0 +λ = 8$", shown, re.MULTILINE)
    assert "SAP-50" in shown
    assert runner(workplace, [*options, "--eps", "8/255", "--out", "units"])[0] == 0
    assert "cells already there" in runner.out
    assert shown.splitlines()[1:] == runner.out.splitlines()[2:]
    code, stderr = runner(workplace, [*options, "--eps", "8/255", "--lambda", "8", "--out", "units"])
    assert (code, "give one of them" in stderr) == (2, True)


def test_an_attack_that_nobody_named_is_none_that_a_masked_gradient_fools(workplace: Path, runner: "Runner") -> None:
    words = ["evaluate", "--model", "mine:small", "--data", "data.npz", "--defense", "sap:100", "--dry-run"]
    assert runner(workplace, words)[0] == 0
    assert "PGD-20 ×5 identity" in runner.out


def test_l2_is_said_in_its_own_unit(workplace: Path, runner: "Runner") -> None:
    words = ["--limit", "10", "--norm", "l2", "--attack", "fgsm+noise"]
    options = command(*words)[3:]
    assert runner(workplace, [*options, "--eps", "0.25,1", "--out", "l2"])[0] == 0
    assert re.search(r"^accuracy, % +ε = 0 +ε = 0\.25 +ε = 1$", runner.out, re.MULTILINE)
    assert "Robust accuracy at ε = 0.25 in L2 is at most" in runner.out  # the largest up to the usual 0.5
    assert "λ" not in runner.out
    assert "--eps " in runner.out  # in the advice
    assert "--lambda" not in runner.out
    code, stderr = runner(workplace, [*options[:-2], "--eps", "0.25,1", "--out", "l2", "--norm", "linf"])
    assert code == 2
    assert "holds another request" in stderr
    net, data = load_model("mine:small"), np.load("data.npz")
    found = evaluate(
        defend(net, SAP(100)), data["images"][:10], data["labels"][:10], ["fgsm", "noise"], [0.25, 1.0], "l2",
        samples=3, passes=4, out="l2", progress=False,
    )  # fmt: skip
    assert [curve.eps for curve in found.request.curves] == [(0.0, 0.25, 1.0)] * len(found.request.curves)


def test_parts_of_the_users_are_named_by_their_module(workplace: Path, runner: "Runner") -> None:
    options = [
        "evaluate",
        "--model",
        "mine:small",
        "--data",
        "data.npz",
        "--limit",
        "10",
        "--passes",
        "2",
        "--lambda",
        "8",
    ]
    words = ["--defense", "parts:Noise(std=0.1)", "--attack", "parts:Brighter", "--out", "own"]
    code, stderr = runner(workplace, [*options, *words])
    assert code == 0, stderr
    assert "more light" in runner.out
    assert "Noise(std=0.1)" in runner.out


def test_results_of_an_earlier_version_are_put_aside_and_said(workplace: Path, runner: "Runner") -> None:
    (workplace / "older" / "cells").mkdir(parents=True)
    (workplace / "older" / "request.json").write_text('{"format": 4}')
    code, stderr = runner(workplace, [*command()[3:], "--limit", "10", "--lambda", "8", "--out", "older"])
    assert code == 0, stderr
    assert "results of an earlier version of saplab are now in older/earlier-version" in runner.out
    assert '"format": 4' in (workplace / "older" / "earlier-version" / "request.json").read_text()


def test_cells_that_fail_leave_the_others_and_end_with_1(workplace: Path, runner: "Runner") -> None:
    options = [
        "evaluate",
        "--model",
        "mine:fragile",
        "--batch-size",
        "10",
        "--lambda",
        "8",
        "--attack",
        "noise",
        "--out",
    ]
    code, stderr = runner(workplace, [*options, "some", "--data", "white.npz"])
    assert (code, stderr.splitlines()[0].partition(":")[0]) == (1, "network passes")
    assert "failed after 3 tries: examples 30..40: RuntimeError: too bright" in runner.out
    assert "1 groups of cells failed; saplab runs some lists them, and the same command retries" in runner.out
    assert len(list((workplace / "some" / "cells").iterdir())) == 3
    assert "30 images" in runner.out
    assert (workplace / "some" / "report.html").is_file()
    code, _ = runner(workplace, [*options, "none", "--data", "white.npz", "--batch-size", "40"])
    assert code == 1
    assert "accuracy" not in runner.out


BATTERY = ("--limit", "12", "--attack", "paper+pgd:steps=3,samples=2,backward=identity+square:queries=4,passes=2")


def test_a_battery_fills_every_part_of_the_page(workplace: Path, runner: "Runner") -> None:
    code, stderr = runner(workplace, command(*BATTERY, "--lambda", "0,4", "--seeds", "2", "--out", "battery")[3:])
    assert code == 0, stderr
    page = (workplace / "battery" / "report.html").read_text(encoding="utf-8")
    for heading in ("The verdict", "Can its confidence be believed?", "The game", "The numbers"):
        assert heading in page
    store = Store.read(workplace / "battery")
    labels = [curve.label for curve in store.request.curves]
    assert "SAP-100: PGD-3 ×2 identity" in labels
    assert "undefended: transfer PGD-3 ×2 identity from SAP-100" in labels
    assert {len(curve.repeats) for curve in store.request.curves} == {0, 1}
    assert store.survey().missing == ()


def test_a_dry_run_shows_the_plan_and_makes_nothing(workplace: Path, runner: "Runner") -> None:
    code, _ = runner(workplace, command(*BATTERY, "--dry-run", "--out", "dry")[3:])
    assert code == 0
    assert not (workplace / "dry").exists()
    assert "backward passes of one image" in runner.out
    assert runner(workplace, command(*BATTERY, "--dry-run", "--out", "dry", "--json")[3:])[0] == 0
    plan = json.loads(runner.out)
    assert (plan["run"], plan["to_compute"]) == ("dry", plan["cells"])
    assert plan["cells"] >= len(plan["curves"]) > 1
    assert min(plan["forward"], plan["backward"], plan["seconds"]) > 0
    assert plan["notes"] == []


@pytest.mark.parametrize(
    ("attacks", "note"),
    [
        ("standard", "The attacks are the battery standard, version saplab-1."),
        ("noise+standard", "Among the attacks is the battery standard, version saplab-1."),
    ],
)
def test_a_dry_run_tells_the_version_of_a_battery(workplace: Path, runner: "Runner", attacks: str, note: str) -> None:
    words = command("--limit", "12", "--attack", attacks, "--dry-run", "--out", "dry")[3:]
    assert runner(workplace, words)[0] == 0
    assert runner.out.startswith(f"{note}\n")
    assert runner(workplace, [*words, "--json"])[0] == 0
    assert json.loads(runner.out)["notes"][0] == note


def test_a_dry_run_counts_what_is_there_as_done(workplace: Path, runner: "Runner") -> None:
    options = [*command()[3:], "--limit", "10", "--attack", "noise", "--out", "begun"]
    assert runner(workplace, [*options, "--lambda", "8"])[0] == 0
    first, *others = sorted((workplace / "begun/cells").iterdir())
    assert runner(workplace, [*options, "--lambda", "8", "--dry-run"])[0] == 0
    assert f"begun: {1 + len(others)} of {1 + len(others)} cells already there\n" in runner.out
    assert "passes" not in runner.out
    first.unlink()
    assert runner(workplace, [*options, "--lambda", "8", "--dry-run"])[0] == 0
    assert f"begun: {len(others)} of {1 + len(others)} cells already there; the rest:\n" in runner.out
    assert "forward and" in runner.out
    assert sorted((workplace / "begun/cells").iterdir()) == others
    assert runner(workplace, [*options, "--lambda", "8", "--dry-run", "--json"])[0] == 0
    assert json.loads(runner.out)["to_compute"] == 1


def test_a_network_that_falls_short_ends_with_code_1(workplace: Path, runner: "Runner") -> None:
    options = [*command()[3:], "--limit", "12", "--lambda", "0,8", "--out"]
    assert runner(workplace, [*options, "short", "--fail-below", "99"])[0] == 1
    assert runner(workplace, [*options, "short", "--fail-below", "0"])[0] == 0


class Runner:
    """Run the command line inside this process, which spares the imports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.out = ""

    def __call__(self, folder: Path, arguments: list[str]) -> tuple[int, str]:
        from saplab.cli import app
        from saplab.cli.errors import guarded

        self.monkeypatch.chdir(folder)
        self.capsys.readouterr()
        code = guarded(lambda: app(arguments, prog_name="saplab", standalone_mode=False))
        self.out, err = self.capsys.readouterr()
        return code, err


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)

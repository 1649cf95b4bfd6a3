"""``saplab benchmark``: an entry of one's own from the first command to its row beside the others."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from own_entry import OWN

import saplab
from saplab.benchmark.card import Card, Left
from saplab.benchmark.entries import ENTRIES
from saplab.benchmark.protocol import PROTOCOL
from saplab.benchmark.run import CARD

SMOKE = PROTOCOL.tiers["smoke"]
Run = Callable[..., int]


def test_the_card_says_what_was_run(card: Card) -> None:
    assert (card.name, card.tier, card.protocol) == ("mine", "smoke", PROTOCOL.version)
    assert card.command == ("saplab benchmark --model tiny:plain --defense gaussian-noise:0.1 --name mine --tier smoke")
    assert (card.data.images, card.passes, card.samples, card.seed) == (6, SMOKE.passes, SMOKE.samples, PROTOCOL.seed)
    assert [threat.norm for threat in card.threats] == [threat.norm for threat in PROTOCOL.threats]
    assert [tuple(left.eps for left in found.left) for found in card.threats] == [t.eps for t in PROTOCOL.threats]
    assert card.network.defense == "gaussian-noise:0.1"
    assert card.network.parameter_count == 1930
    assert card.machine.versions["torch"]
    assert card.machine.threads == 1
    assert card.cost.processor_seconds > 0
    assert card.cost.seconds > 0
    assert card.cost.memory > 100
    assert card.cost.passes == sum(
        saplab.runs.cell.work_of(saplab.load(f"runs/smoke/mine/{norm}").request.cells) for norm in ("linf", "l2")
    )


def test_every_number_is_one_of_saplabs_own_evaluation(card: Card, folder: Path) -> None:
    """Of the stored runs, and of the same evaluation asked for in Python."""
    from tiny import plain

    images, labels = (tensor[:6] for tensor in saplab.load_cifar10("sample"))
    model = saplab.defend(plain(), saplab.GaussianNoise(0.1))
    for found, threat in zip(card.threats, PROTOCOL.threats, strict=True):
        asked: dict[str, Any] = {"attacks": "standard", "eps": threat.eps, "norm": threat.norm, "baseline": False}
        fresh = saplab.evaluate(model, images, labels, passes=10, samples=4, seed=0, batch_size=2, **asked)
        stored = saplab.load(folder / "runs" / "smoke" / "mine" / threat.norm)
        numbers = [[{**row, "model": "", "adversary": ""} for row in result.rows] for result in (stored, fresh)]
        assert numbers[0] == numbers[1]
        attacked = [row for row in fresh.rows if row["eps"] > 0]
        assert [row.counted.averaged.percent for row in found.attacks] == [row["averaged_percent"] for row in attacked]
        assert [row.counted.majority for row in found.attacks] == [row["majority_percent"] for row in attacked]
        bounds = {bound.eps: bound.accuracy for bound in fresh.verdict.robust}
        for left in found.left:
            within = [row for row in attacked if row["eps"] <= left.eps]
            assert left.worst.percent == round(100 * bounds[left.eps].estimate, 4)
            assert left.single_pass.percent == min(row["single_pass_percent"] for row in within)
            assert left.majority == min(row["majority_percent"] for row in within)
            assert _tries(left) == min(row["after_10_tries_percent"] for row in within)
        (ten,) = fresh.verdict.persistent
        assert ten.eps == found.left[-1].eps
        assert _tries(found.left[-1]) == round(100 * ten.accuracy.estimate, 4)
        assert (found.sentence, found.masked) == (fresh.verdict.sentence, fresh.verdict.masked)
        assert [(row.key, row.outcome) for row in found.checks] == [(c.key, c.outcome) for c in fresh.verdict.checks]
        clean = next(row for row in fresh.rows if row["eps"] == 0)
        assert card.clean.averaged.percent == clean["averaged_percent"]
        rows = fresh.findings.calibration if fresh.findings else ()
        measured = {row.strength: row for row in rows if row.curve == fresh.verdict.headline.attack}
        wanted = [round(100 * row.averaged.ece.estimate, 4) for row in measured.values()]
        assert [row.ece.percent for row in found.calibration] == wanted


def _tries(left: Left) -> float:
    assert left.tries is not None
    return left.tries.percent


def test_noise_alone_is_certified(card: Card) -> None:
    from tiny import plain

    images, labels = (tensor[:6] for tensor in saplab.load_cifar10("sample"))
    found = saplab.certify(plain(), images, labels, std=0.1, n0=SMOKE.n0, n=SMOKE.n, alpha=PROTOCOL.alpha)
    assert card.certified is not None
    assert [at.radius for at in card.certified.accuracy] == [0.0, 0.05, 0.1]
    for at in card.certified.accuracy:
        assert at.accuracy.percent == round(100 * found.accuracy(at.radius).estimate, 4)
    assert card.certified.abstained.percent == round(100 * found.abstained.estimate, 4)


def test_the_same_command_goes_on_and_ends_with_the_same_card(card: Card, mine: Path, benchmark: Run) -> None:
    """Nothing that is stored is computed again: not a cell, not a certificate."""
    times = {path: path.stat().st_mtime_ns for path in mine.rglob("*.safetensors")}
    proof = (mine / "certificate.json").stat().st_mtime_ns
    assert len(times) == 28  # seven attacks, two norms, two ranges of images
    assert benchmark(*OWN, "--out", "runs") == 0
    assert {path: path.stat().st_mtime_ns for path in mine.rglob("*.safetensors")} == times
    assert (mine / "certificate.json").stat().st_mtime_ns == proof
    again = Card.from_json((mine / CARD).read_bytes())
    assert msgspec.structs.replace(again, cost=card.cost, time=card.time) == card


def test_a_certificate_of_another_network_or_a_torn_one_is_made_anew(mine: Path, benchmark: Run, card: Card) -> None:
    path = mine / "certificate.json"
    for content in (b"{", path.read_bytes().replace(b'"seed":0', b'"seed":1')):
        path.write_bytes(content)
        assert benchmark(*OWN, "--out", "runs") == 0
        assert Card.from_json((mine / CARD).read_bytes()).certified == card.certified
        assert b'"seed":0' in path.read_bytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [("predictions", []), ("predictions", [9] * 6), ("predictions", [-2] * 6),
     ("predictions", [10] * 6), ("votes", [[1], [2, 3]]), ("votes", [[0] * 10] * 6), ("votes", [[40] + [0] * 9] * 5),
     ("votes", [[41, -1] + [0] * 8] * 6), ("votes", []), ("predictions", [2**63] * 6), ("votes", [[]] * 6)],
)  # fmt: skip
def test_a_certificate_that_its_votes_do_not_bear_is_made_anew(
    field: str, value: object, mine: Path, benchmark: Run, card: Card
) -> None:
    path = mine / "certificate.json"
    whole = json.loads(path.read_bytes())
    path.write_text(json.dumps({**whole, field: value}), encoding="utf-8")
    assert benchmark(*OWN, "--out", "runs") == 0
    assert Card.from_json((mine / CARD).read_bytes()).certified == card.certified
    again = json.loads(path.read_bytes())
    assert (again["votes"], again["predictions"]) == (whole["votes"], whole["predictions"])


def test_killed_at_any_moment_it_goes_on(card: Card, folder: Path, benchmark: Run) -> None:
    """SIGKILL in the middle of the first evaluation; what was stored by then is kept."""
    words = [sys.executable, "-m", "saplab", "benchmark", *OWN, "--tier", "smoke", "--threads", "1", "--out", "killed"]
    driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder)
    killed, deadline = folder / "killed" / "smoke" / "mine", time.monotonic() + 300
    while len(list(killed.glob("linf/cells/*.safetensors"))) < 3:
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert not (killed / CARD).exists()
    stored = {path: path.stat().st_mtime_ns for path in killed.rglob("*.safetensors")}
    assert benchmark(*OWN, "--out", "killed") == 0
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
    again = Card.from_json((killed / CARD).read_bytes())
    assert (again.clean, again.threats, again.certified) == (card.clean, card.threats, card.certified)


# --- checks of stored cards ------------------------------------------------------------------------------------------


def test_check_says_that_a_card_agrees_or_where_it_does_not(
    mine: Path, card: Card, benchmark: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(*OWN, "--check", "--cards", str(mine), "--out", "runs", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[-1]["agrees"] is True
    assert found[-1]["earlier_cells"] == 0
    assert found[-1]["same_kind"] is True
    assert found[-1]["compared"] > 60
    shifted = msgspec.structs.replace(card.clean, majority=round(card.clean.majority - 100 / card.data.images, 4))
    (folder / "other.json").write_bytes(msgspec.structs.replace(card, clean=shifted).to_json())
    stored = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.safetensors")}
    assert benchmark(*OWN, "--check", "--cards", "other.json", "--out", "runs") == 1
    told = capsys.readouterr().out
    assert "holds 28 cells of an earlier check, which are not computed again; remove it for that" in told
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.safetensors")} == stored
    assert benchmark(*OWN, "--check", "--cards", "other.json", "--out", "again", "--json") == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[-1]["differences"] == [f"clean, majority: {shifted.majority:g} stored, {card.clean.majority:g} found"]


def test_check_needs_a_stored_card_of_the_same(benchmark: Run, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark(*OWN, "--check", "--out", "runs") == 2
    assert "`check` needs a stored card, and mine has none in the tier smoke" in capsys.readouterr().err
    other = (*OWN[:3], "gaussian-noise:0.2", *OWN[4:])
    assert benchmark(*other, "--check", "--cards", str(mine), "--out", "elsewhere") == 2
    assert "the stored card has another defence (gaussian-noise:0.1)" in capsys.readouterr().err


# --- lists, plans and mistakes ---------------------------------------------------------------------------------------


def test_without_names_every_entry_is_listed(benchmark: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark("--json", tier="small") == 0
    captured = capsys.readouterr()
    listed = json.loads(captured.out)["entries"]
    assert [record["entry"] for record in listed] == list(ENTRIES)
    for record in listed:
        lacking = ENTRIES[record["entry"]].lacking
        assert record["status"].startswith("lacks") == bool(lacking and record["status"] != "card")
    assert all(name in captured.err for name in ENTRIES)


@pytest.mark.parametrize(("tier", "columns"), [("small", 80), ("small", 50), ("smoke", 80)])
def test_the_list_fits_narrow_terminals_and_breaks_no_name(
    benchmark: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tier: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert benchmark(tier=tier) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    assert set(ENTRIES) <= set(re.split(r"[,\s]+", shown))


def test_a_plan_computes_nothing(benchmark: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark(*OWN[:-1], "planned", "--dry-run", "--out", "planned") == 0
    assert not (folder / "planned").exists()
    assert "forward and" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [(("nothing",), "or all, got 'nothing'"),
     (("dense", "--defense", "sap:100"), "give no names beside them, but --name"),
     (("--defense", "sap:100", "--name", "sap-100-dense"), "`name` must be a name for files (letters of ASCII"),
     (("--defense", "sap:100", "--name", "../x"), "`name` must be a name for files"),
     (("--defense", "sap:100", "--name", "SAP-100-dense"), "`name` must be a name for files (letters of ASCII"),
     (("--defense", "sap:100", "--name", "dеnse"), "`name` must be a name for files"),
     (("--defense", "sap:100", "--name", "all"), "`name` must be a name for files"),
     (("--model", "tiny:fickle", "--name", "fickle"), "tiny:fickle must return the same network whenever it is called"),
     (("dense", "--leaderboard", "x"), "`leaderboard` is written of stored cards"),
     (("--weights", "w.pt"), "belong to an entry of one's own"),
     (("dense", "--sites", "stage1"), "belong to an entry of one's own"),
     (("--model", "tiny:plain", "--sites", "1"), "`sites` says where a defence acts"),
     (("--check",), "name their entries, or all"),
     (("--model", "tiny:padded", "--name", "padded"), "must have 10 outputs, as"),
     (("--leaderboard", "x", "--dry-run"), "`leaderboard` computes nothing: give it without `dry-run`"),
     (("--leaderboard", "x", "--workers", "2"), "`leaderboard` computes nothing: give it without `workers`"),
     (("--leaderboard", "x", "--out", "y"), "`leaderboard` computes nothing: give it without `out`"),
     (("--leaderboard", "x", "--engine", "ray"), "`leaderboard` computes nothing: give it without `engine`"),
     (("--cards", "nowhere"), "`cards` are further cards for `leaderboard` and `check`"),
     (("sap-100-fast", "dense", "--check"), "`check` needs a stored card, and sap-100-fast, dense has none"),
     (("--leaderboard", "x", "--cards", "nowhere"), "no card, and no folder of cards"),
     (("--leaderboard", "x", "--cards", "tiny.py"), "not a card of the benchmark")],
)  # fmt: skip
def test_mistakes_are_one_line(
    words: tuple[str, ...], message: str, benchmark: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line

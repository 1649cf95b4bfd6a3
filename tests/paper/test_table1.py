"""Table 1: its plan, its page, and the command that plays it."""

import hashlib
import importlib.util
import json
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from saplab.cli import app
from saplab.metrics.scores import score_difference
from saplab.models.qnetwork import new_network
from saplab.paper import table1 as plan
from saplab.paper.published import PAPER_CHANGES
from saplab.paper.table1 import EFFORTS, STRENGTHS, Effort, Entry, TableRequest, further_lines, paper_lines
from saplab.paper.table1_claims import claims_of
from saplab.paper.table1_folder import open_table, read_table, table_progress
from saplab.paper.table1_report import is_table, write_table
from saplab.rl.agents import Facts, pack, write_agent
from saplab.rl.play import play
from saplab.rl.published import PUBLISHED
from saplab.runs.cell import Network
from saplab.runs.game_cell import GameCell
from saplab.runs.game_store import GameResult
from saplab.runs.record import last_run, running

MISSING = [name for name in ("ale_py", "gymnasium") if importlib.util.find_spec(name) is None]
needs_ale = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra rl: {', '.join(MISSING)} is not installed")
AGENT = Network("agent:assault", "d" * 64)
SAP = replace(AGENT, defense="sap:100")
EFFORT = Effort(episodes=3, seeds=2, samples=2, passes=2, max_frames=400)
FGSM_ONE = {"name": "fgsm", "samples": 1, "backward": "mask", "average": "loss", "loss": "cross-entropy"}
PLAIN = GameCell("assault", AGENT, AGENT, FGSM_ONE, 1.0, 0, 3, max_frames=400)
REQUEST = TableRequest("table1: smoke", "saplab reproduce table1", (Entry("assault", AGENT.digest, "A note."),), EFFORT)


# The plan


def test_table_1_has_the_papers_lines_and_numbers():
    original, sap = paper_lines(PLAIN, EFFORT)
    assert (original.label, sap.label) == ("original", "SAP-100, mask backward")
    assert tuple(sap.cells) == STRENGTHS == (0.0, 1.0, 2.0, 4.0, 8.0)
    assert sap.paper == PAPER_CHANGES["assault"]
    cell = sap.cells[4.0][1]
    assert (cell.defender, cell.adversary, cell.strength, cell.seed) == (SAP, SAP, 4.0, 1)
    assert (cell.attack["samples"], cell.passes, cell.stop) == (2, 2, 3)
    assert original.cells[4.0][0].passes == 1
    assert original.paper == {}
    assert set(PAPER_CHANGES) == set(PUBLISHED)
    assert EFFORTS["paper"].episodes * EFFORTS["paper"].seeds == 90


def test_further_lines_go_beyond_the_paper():
    original, sap = paper_lines(PLAIN, EFFORT)
    lines = further_lines(PLAIN, EFFORT, original)
    assert [one.label for one in lines] == [
        "SAP-100, identity backward", "SAP-100, gradient of the original", "original, random noise",
        "SAP-100, random noise", "DROPOUT-0.1, mask backward", "RNA-0.05", "RSA-0.2, mask backward", "RNW-0.01",
        "RSW-0.1", "DWP-60", "SWP-200",
    ]  # fmt: skip
    transfer = lines[1].cells[2.0][0]
    assert (transfer.adversary, transfer.attack["samples"], transfer.passes) == (AGENT, 1, 2)
    assert lines[3].against is lines[2]
    assert all(one.against is original for one in (*lines[:2], *lines[4:]))
    assert {cell.digest for one in lines[:2] for cell in one.cells[0.0]} == {c.digest for c in sap.cells[0.0]}


def test_a_request_comes_back_from_its_file_and_plans_each_cell_once():
    further = replace(REQUEST, beyond=True, sticky=0.25, seed=5, precision="bfloat16")
    assert TableRequest.from_json(further.to_json()) == further
    assert len(REQUEST.cells) == 2 * 5 * EFFORT.seeds  # two lines, five strengths
    assert {(cell.sticky, cell.precision, cell.max_frames) for cell in further.cells} == {(0.25, "bfloat16", 400)}
    assert {cell.seed for cell in further.cells} == {5, 6}
    assert all(not one.paper for one in further.lines["assault"])  # the paper has no sticky actions
    with pytest.raises(ValueError, match="not a table's request"):
        TableRequest.from_json('{"entries": []}')


def test_cells_hold_so_few_games_that_many_workers_have_some():
    (original, _) = replace(REQUEST, effort=replace(EFFORT, episodes=7, together=3)).lines["assault"]
    assert [(cell.seed, cell.start, cell.stop) for cell in original.cells[4.0]] == [
        (seed, *bounds) for seed in (0, 1) for bounds in ((0, 3), (3, 6), (6, 7))
    ]  # fmt: skip
    assert {cell.strength for cell in original.cells[4.0]} == {4.0}
    assert {len(one.all_cells) for one in replace(REQUEST, effort=EFFORTS["paper"]).lines["assault"]} == {5 * 3 * 3}


def test_claims_are_about_the_strengths_that_the_paper_gives():
    lines = replace(REQUEST, beyond=True).lines["assault"]
    assert [(c.relation, c.strengths) for c in claims_of("battle_zone", lines[:2])] == [
        ("lower", (0,)), ("higher", (2, 4, 8)), ("lower", (1,))
    ]  # fmt: skip
    assert [(c.relation, c.strengths) for c in claims_of("bowling", lines[:2])] == [("lower", (0,)), ("higher", (1,))]
    bpda = list(claims_of("assault", lines))[2]
    assert (bpda.first, bpda.second, bpda.relation) == ("SAP-100, identity backward", "SAP-100, mask backward", "lower")


def test_a_difference_of_scores_has_welchs_interval():
    stats = pytest.importorskip("scipy.stats")
    first, second = [5.0, 7.0, 12.0, 4.0], [1.0, 2.0, 2.5]
    found = score_difference(first, second)
    test = stats.ttest_ind(first, second, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.estimate, found.n) == (pytest.approx(7 - 5.5 / 3), 7)
    assert score_difference([1.0], second) is None


# The page


def stored(root, scores):
    """Store made-up scores of the request's cells: (defended, strength) -> mean points; others stay missing."""
    store = open_table(root, REQUEST)
    for cell in REQUEST.cells:
        mean = scores.get((bool(cell.defender.defense), cell.strength))
        if mean is not None:
            store.save(cell, GameResult((mean - 1.0, mean, mean + 1.0), (10, 10, 10), {"seconds": 1.0}))


def test_the_page_shows_changes_blanks_and_what_is_missing(tmp_path):
    assert not is_table(tmp_path)
    stored(tmp_path, {(False, 0.0): 100.0, (True, 0.0): 50.0, (False, 1.0): 0.0, (True, 1.0): 40.0, (False, 2.0): 10.0})
    report = write_table(tmp_path)
    assert is_table(tmp_path)
    assert (report.finished, report.total) == (10, 20)
    outcomes = [(found.outcome, found.claim.strengths) for _, found in report.judged]
    assert outcomes == [("holds", (0,)), ("unclear", (1, 2, 4, 8))]
    assert report.judged[0][1].evidence.startswith("λ = 0: -50.0 points [-51.")
    assert report.judged[1][1].evidence.endswith("λ = 2 not computed; λ = 4 not computed; λ = 8 not computed")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in ("<b>-50.0</b>", "paper -12.2", "paper +10.4", ">blank</b>", "10 of 20 cells", "A note.", "Assault"):
        assert text in page
    assert "<script" not in page
    assert (tmp_path / "table1.csv").read_text().splitlines()[1].startswith("assault,original,0.0,6,100.0,")
    assert page.count("<svg") == 1
    assert "var(--curve-1)" in page
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"points.svg", "points.pdf"}
    assert all(path.is_file() for path in report.files)


def test_the_results_for_a_repository_say_what_the_page_says(tmp_path):
    stored(tmp_path, {(False, 0.0): 100.0, (True, 0.0): 50.0, (False, 1.0): 0.0, (True, 1.0): 40.0, (False, 2.0): 10.0})
    write_table(tmp_path)
    lines = (tmp_path / "results.md").read_text(encoding="utf-8").splitlines()
    starts = [" | ".join(line.split(" | ")[:3]) for line in lines]
    assert "| SAP-100 costs points where nobody attacks. | Assault | **holds**" in starts
    assert "| original | 100.0 [99.1, 100.9] | 0.0 [-0.9, 0.9] | 10.0 [9.1, 10.9] |" in lines
    (clean,) = (line for line in lines if line.startswith("| 0 |"))
    assert clean.startswith("| 0 | -50.0 [-50.")
    assert clean.endswith("]; paper -12.2 |")
    assert "| 1 | blank; paper +10.4 |" in lines
    assert "![Mean points against strength](figures/points.svg)" in lines
    assert "A note." in lines


def test_a_table_of_which_nothing_is_played_has_no_drawing(tmp_path):
    stored(tmp_path, {})
    write_table(tmp_path)
    assert not (tmp_path / "figures").exists()
    assert "<svg" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    results = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "figures/" not in results
    assert "Not played." in results


def test_the_progress_of_a_table_is_told_from_its_folder(tmp_path):
    stored(tmp_path, {(False, 0.0): 100.0, (False, 1.0): 5.0})
    _, store = read_table(tmp_path)
    store.save(replace(PLAIN, seed=99), GameResult((1.0,) * 3, (1,) * 3, {}))  # another run's, which shares the folder
    broken = store.path(REQUEST.cells[0])
    broken.write_text("{")
    found = table_progress(tmp_path)
    assert (found.stored, found.total, found.state, found.seconds_left) == (3, 20, "stopped", None)
    assert [(curve.label, curve.stored, curve.total) for curve in found.curves] == [
        ("assault: original", 3, 10), ("assault: SAP-100, mask backward", 0, 10)
    ]  # fmt: skip
    (problem,) = found.problems
    assert problem.startswith(f"{broken} is damaged")
    with running(tmp_path, "in process"):
        time.sleep(0.05)
        for cell in REQUEST.cells[4:6]:
            store.save(cell, GameResult((1.0,) * 3, (1,) * 3, {}))
        before, found, after = time.time(), table_progress(tmp_path), time.time()
        started = last_run(tmp_path)["started"]
    assert found.state == "running"
    assert (before - started) * 15 / 2 <= found.seconds_left <= (after - started) * 15 / 2  # of 15 cells, like 2


def test_a_claim_is_contradicted_by_one_strength(tmp_path):
    stored(
        tmp_path, {(d, s): 50.0 + (20 if d else 0) * (-1 if s == 4 else 1) for d in (False, True) for s in STRENGTHS}
    )
    report = write_table(tmp_path)
    assert [found.outcome for _, found in report.judged] == ["does not hold", "does not hold"]
    assert report.tally == "Of 2 claims, 2 do not."
    assert "Unfinished" not in (tmp_path / "report.html").read_text(encoding="utf-8")


# The command


def agent(folder, game="assault"):
    """Write an untrained agent as `train-agent` would."""
    folder.mkdir(parents=True)
    content = pack(new_network(7, 0))
    digest = hashlib.sha256(content).hexdigest()
    write_agent(folder, content, Facts(game, "smoke", 16, 0, digest, (3.0, 4.0), (1.0, 2.0)), "a card")


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refuses(max_frames):
    """Play, but for games of so many frames, which are not those of a rehearsal."""

    def refused(player, rules, *rest):
        if rules.max_frames == max_frames:
            raise RuntimeError("no luck")
        return play(player, rules, *rest)

    return refused


@needs_ale
def test_reproduce_plays_the_games_that_have_an_agent_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(plan.EFFORTS, "smoke", Effort(2, 1, 1, 1, 40))
    agent(tmp_path / "agents" / "Assault")
    words = ("reproduce", "table1", "--preset", "smoke", "--agents", tmp_path / "agents", "--out", tmp_path / "run",
             "--threads", 1, "--json")  # fmt: skip
    first = invoke(*words)
    assert first.exit_code == 0, first.output
    assert "left out, as no agent is in" in first.stderr
    assert "Asterix, BankHeist, BattleZone, BeamRider, Bowling" in first.stderr
    found = json.loads(first.stdout)
    assert [(row["game"], row["strength"]) for row in found["rows"][:5]] == [("assault", s) for s in STRENGTHS]
    assert len(found["claims"]) == 2
    cells = sorted((tmp_path / "run" / "games").glob("*.json"))
    assert len(cells) == 10
    cells[3].unlink()
    cells[4].write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr("saplab.runs.games.play", refuses(40))
        failed = invoke(*words)
    assert failed.exit_code == 1
    assert "failed after 3 tries: episodes 0..2: RuntimeError: no luck" in failed.stderr
    assert "is damaged: KeyError('cell'); computing it again" in failed.stderr
    assert "unfinished: 8 of 10 cells are stored" in failed.stderr
    (progress,) = json.loads(invoke("runs", tmp_path / "run", "--json").stdout)["runs"]
    assert (progress["stored"], progress["total"], progress["state"], progress["engine"]) == (
        8, 10, "stopped", "in process"
    )  # fmt: skip
    assert {one["label"].partition(":")[0] for one in progress["failures"]} == {"assault"}
    assert len(progress["failures"]) == 2
    again = invoke(*words)
    assert again.exit_code == 0
    assert json.loads(again.stdout)["rows"] == found["rows"]
    assert "unfinished" not in again.stderr
    assert "finished, 10 of 10 cells (100.0 %)" in invoke("runs", tmp_path).stdout
    page = invoke("report", tmp_path / "run", "--json")
    assert json.loads(page.stdout)["rows"] == found["rows"]


@needs_ale
def test_agents_that_cannot_be_used_are_one_line(tmp_path):
    words = ("reproduce", "table1", "--preset", "smoke", "--agents", tmp_path)
    assert "no agent of its games is in" in str(invoke(*words).exception)
    assert "saplab train-agent Assault" in str(invoke(*words).exception)
    assert "there is no such folder of agents" in str(invoke(*words[:-1], tmp_path / "none").exception)
    agent(tmp_path / "Bowling")
    assert "holds an agent of assault, not of bowling" in str(invoke(*words).exception)
    (tmp_path / "Bowling" / "model.safetensors").write_bytes(b"broken")
    assert "is damaged: SHA-256 must be" in str(invoke(*words).exception)
    (tmp_path / "Bowling" / "agent.json").write_text("[]")
    assert "holds no facts of an agent" in str(invoke(*words).exception)

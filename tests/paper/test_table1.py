"""Table 1: its plan, its page, and the command that plays it."""

import hashlib
import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from saplab.attacks import FGSM, Attacker, RandomNoise, eps_of, radii_of
from saplab.cli import app
from saplab.evaluation.game_plan import Played, plan_games
from saplab.evaluation.paper_numbers import PAPER_CHANGES, paper_changes
from saplab.metrics.scores import relative_change
from saplab.models.qnetwork import new_network
from saplab.paper import table1 as plan
from saplab.paper.claims import judge
from saplab.paper.report import _how_many, write_study
from saplab.paper.study import Claim, Figure, Line, is_study, save_figures
from saplab.paper.table1 import EFFORTS, STRENGTHS, Agents, Effort, table_curves, table_figures
from saplab.rl.agents import Facts, pack, write_agent
from saplab.rl.play import play
from saplab.rl.published import PUBLISHED
from saplab.runs import GameResult, Network, Request, Store
from saplab.runs.progress import progress_of

MISSING = [name for name in ("ale_py", "gymnasium") if importlib.util.find_spec(name) is None]
needs_ale = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra rl: {', '.join(MISSING)} is not installed")
EFFORT = Effort(quiet=3, attacked=3, seeds=2, samples=2, passes=2, max_frames=400)
GAMES = ("assault", "battle_zone", "bowling")


def facts_of(game):
    return Facts(game, "smoke", 16, 0, "d" * 64, (3.0, 4.0), (1.0, 2.0))


def figures_of(*games, **more):
    return table_figures(Agents({}, {game: facts_of(game) for game in games}), **more)


def curves_of(figures, effort=EFFORT, **more):
    found = table_curves(
        figures, {f"agent:{game}": Network(f"agent:{game}", f"{game} digest") for game in GAMES}, effort, **more
    )
    return {(curve.figure, curve.label): curve for curve in found}


# The plan


def test_table_1_has_the_papers_lines_and_numbers():
    curves = curves_of(figures_of("assault"))
    assert list(curves) == [("Assault", "original"), ("Assault", "SAP-100, mask backward")]
    original, sap = curves.values()
    assert tuple(sap.eps) == radii_of(STRENGTHS)
    assert (sap.paper, sap.against) == (PAPER_CHANGES["assault"], "original")
    assert (original.paper, original.against) == ({}, "")
    first, *_, cell = sap.cells_at(eps_of(4))
    assert [d.spec for d in cell.defender.defenses] == ["sap:100"]
    assert cell.defender == cell.adversary == first.defender
    assert (cell.defender.model, cell.defender.digest, cell.game) == ("agent:assault", "assault digest", "assault")
    assert (cell.attack.samples, cell.passes, first.seed, cell.seed, cell.start, cell.stop) == (2, 2, 0, 1, 0, 3)
    assert {(c.passes, c.attack.samples) for c in original.cells_at(eps_of(4))} == {(1, 1)}
    assert (cell.max_frames, cell.epsilon) == (400, 0.05)
    assert PAPER_CHANGES == {
        "assault": {0: -12.2, 1: 10.4, 2: 9.8, 4: 12.4, 8: 16.6},
        "asterix": {0: -33.4, 1: 13.3, 2: 20.8, 4: 14.0, 8: 7.4},
        "bank_heist": {0: -59.2, 1: 131.7, 2: 204.8, 4: 1760.0, 8: 60.9},
        "battle_zone": {0: -65.8, 1: -22.0, 2: 110.1, 4: 202.6, 8: 134.8},
        "beam_rider": {0: -15.8, 1: 164.5, 2: 92.3},
        "bowling": {0: -4.5, 1: 3425.9},
    }
    assert set(PAPER_CHANGES) == set(PUBLISHED)
    assert EFFORTS["paper"].quiet * EFFORTS["paper"].seeds == 102


def test_more_games_than_can_be_played_at_once_are_cells_of_their_own():
    sap = next(iter(list(curves_of(figures_of("assault")).values())[1].cells_at(eps_of(4))))
    whole = replace(sap.plain, stop=600)
    (curve,) = plan_games(Played(whole, sap.attack, (eps_of(4),), 1), (), (Attacker(sap.attack),), baseline=True)
    assert [(cell.start, cell.stop) for cell in curve.cells] == [(0, 512), (512, 600)]


def test_the_papers_numbers_stand_beside_its_own_attack_and_rules_alone():
    sap = list(curves_of(figures_of("assault")).values())[1]
    cell = replace(next(iter(sap.cells_at(eps_of(4)))), max_frames=18_000)
    gradient = cell.attack.gradient
    assert paper_changes(cell) == PAPER_CHANGES["assault"]
    others = [replace(gradient, loss="margin"), replace(gradient, average="logits"), replace(gradient, redraw=False)]
    short = replace(cell, max_frames=17_999)  # the paper does not say how long its games are, but not so short
    for other in (*(replace(cell, attack=FGSM(one)) for one in others), replace(cell, epsilon=1.0), short):
        assert paper_changes(other) == {}


def test_further_lines_go_beyond_the_paper():
    curves = {label: curve for (_, label), curve in curves_of(figures_of("assault", beyond=True)).items()}
    assert list(curves)[2:] == [
        "SAP-100, identity backward", "SAP-100, gradient of the original", "original, random noise",
        "SAP-100, random noise", "DROPOUT-0.1, mask backward", "RNA-0.05", "RSA-0.2, mask backward", "RNW-0.01",
        "RSW-0.1", "DWP-60", "SWP-200",
    ]  # fmt: skip
    transfer = next(curves["SAP-100, gradient of the original"].cells_at(eps_of(2)))
    assert transfer.adversary == Network("agent:assault", "assault digest")
    assert (transfer.attack.samples, transfer.passes) == (1, 2)
    noise = next(curves["SAP-100, random noise"].cells_at(eps_of(2)))
    assert (noise.attack, noise.adversary) == (RandomNoise(), noise.defender)
    against = {label: curve.against for label, curve in curves.items()}
    assert against.pop("SAP-100, random noise") == "original, random noise"
    assert {label for label, other in against.items() if not other} == {"original", "original, random noise"}
    assert set(against.values()) == {"", "original"}
    own, bpda = (curves[f"SAP-100, {rule} backward"] for rule in ("mask", "identity"))
    assert {c.digest for c in own.cells_at(0.0)} == {c.digest for c in bpda.cells_at(0.0)}
    assert not {c.digest for c in own.cells_at(eps_of(1))} & {c.digest for c in bpda.cells_at(eps_of(1))}


def test_a_request_comes_back_from_its_file_and_plans_each_cell_once():
    figures = figures_of("assault", beyond=True, sticky=0.25)
    curves = curves_of(figures, sticky=0.25, seed=5, precision="bfloat16", device="cuda")
    request = Request("t", tuple(curves.values()))
    assert Request.from_json(request.to_json()) == request
    cells = request.cells
    assert {(c.sticky, c.precision, c.device, c.max_frames) for c in cells} == {(0.25, "bfloat16", "cuda", 400)}
    assert {cell.seed for cell in cells} == {5, 6}
    assert all(not curve.paper for curve in curves.values())  # the paper has no sticky actions
    assert not any(claim.by for figure in figures for claim in figure.claims)
    assert all(label.endswith(", sticky actions") for _, label in curves)
    assert len(Request("t", tuple(curves_of(figures_of("assault")).values())).cells) == 2 * 5 * EFFORT.seeds


def test_cells_hold_so_few_games_that_many_workers_have_some():
    figures = figures_of("assault")
    original, _ = curves_of(figures, Effort(5, 7, 2, 2, 2, 400, together=3)).values()
    assert [(cell.seed, cell.start, cell.stop) for cell in original.cells_at(eps_of(4))] == [
        (seed, *bounds) for seed in (0, 1) for bounds in ((0, 3), (3, 6), (6, 7))
    ]  # fmt: skip
    assert [(cell.start, cell.stop) for cell in original.cells_at(0.0)] == [(0, 3), (3, 5)] * 2
    every = {len(list(curve.every_cell())) for curve in curves_of(figures, EFFORTS["paper"]).values()}
    assert every == {5 * 3 * 4}


def test_a_game_may_be_played_more_often_at_one_strength():
    more = Effort(3, 3, 1, 2, 2, 400, more={("assault", 0.0): 3, ("bowling", 4.0): 2})
    curves = curves_of(figures_of("assault", "bowling", beyond=True), more)
    seeds = {(*name, strength): [cell.seed for cell in curve.cells_at(eps_of(strength))]
             for name, curve in curves.items() for strength in STRENGTHS}  # fmt: skip
    table = ("original", "SAP-100, mask backward")
    assert {where for where, found in seeds.items() if found == [0, 1, 2]} == {("Assault", line, 0.0) for line in table}
    assert {where for where, found in seeds.items() if found == [0, 1]} == {("Bowling", line, 4.0) for line in table}
    assert {tuple(found) for found in seeds.values()} == {(0,), (0, 1), (0, 1, 2)}
    fewer = curves_of(figures_of("assault", beyond=True), Effort(3, 3, 3, 2, 2, 400, rivals=2))
    assert [len(curve.seeds) for curve in fewer.values()] == [3] * 6 + [2] * 7
    rivals = "7 lines, DROPOUT-0.1, mask backward to SWP-200"
    assert _how_many(list(fewer.values())) == (
        f"9 games of 3 seeds without an attack (6 of 2 of {rivals})"
        f" and 9 games of 3 seeds under one (6 of 2 of {rivals})"
    )
    assert _how_many(list(curves.values())).startswith(
        "3 games of 1 seed without an attack (9 of 3 of original and SAP-100, mask backward in Assault at λ = 0) and 3"
    )
    request = Request("more", tuple(curves.values()))
    assert Request.from_json(request.to_json()).cells == request.cells
    said = _how_many([curve for (_, label), curve in curves.items() if label in table])
    assert said == (
        "3 games of 1 seed without an attack (9 of 3 in Assault at λ = 0) and 3 games of 1 seed under one"
        " (6 of 2 in Bowling at λ = 4)"
    )


def test_claims_are_about_the_strengths_that_the_paper_gives():
    zone, bowling = figures_of("battle_zone", "bowling")
    assert (zone.name, bowling.name) == ("BattleZone", "Bowling")
    assert [(c.relation, c.strengths, c.by) for c in zone.claims] == [
        ("lower", (0,), {}), ("lower", (0,), {0: -32.9}), ("higher", (2, 4, 8), {}),
        ("higher", (2, 4, 8), {2: 55.05, 4: 101.3, 8: 67.4}), ("lower", (1,), {}), ("lower", (1,), {1: -11.0}),
    ]  # fmt: skip
    assert zone.claims[3].text == "SAP-100 gains at least half of what the paper says under attack."
    assert [(c.relation, c.strengths) for c in bowling.claims] == [("lower", (0,))] * 2 + [("higher", (1,))] * 2
    (figure,) = figures_of("assault", beyond=True)
    bpda = figure.claims[4]
    assert (bpda.first, bpda.second, bpda.relation) == ("SAP-100, identity backward", "SAP-100, mask backward", "lower")


def test_a_game_comes_with_what_is_known_of_its_agent():
    (figure,) = figures_of("assault")
    assert "preset smoke, 16 steps" in figure.note
    assert "in the 2 games of its card 3.5 ±" in figure.note
    assert "Double DQN after 50 million steps 5,393.2 (Wang et al. 2016)" in figure.note


# The page


def stored(root, scores, games=("assault",)):
    """Store made-up scores: (game, defended, strength) -> mean points; other cells stay missing."""
    figures = figures_of(*games)
    curves = curves_of(figures).values()
    store = Store.open(root, Request("table1: smoke", tuple(curves), "saplab reproduce table1"))
    save_figures(root, figures)
    for cell in store.request.cells:
        mean = scores.get((cell.game, bool(cell.defender.defenses), round(255 * cell.eps[0])))
        if mean is not None:
            points = np.array([mean - 1.0, mean, mean + 1.0])
            store.save(cell, GameResult(points, np.full(3, 10), {"seconds": 1.0}))
    return store


SOME = {("assault", False, 0): 100.0, ("assault", True, 0): 50.0, ("assault", False, 1): 0.0,
        ("assault", True, 1): 40.0, ("assault", False, 2): 10.0}  # fmt: skip


@pytest.fixture
def written(tmp_path):
    assert not is_study(tmp_path)
    return write_study(stored(tmp_path, SOME, ("assault", "bowling"))), tmp_path


def test_the_page_shows_changes_blanks_and_what_is_missing(written):
    report, root = written
    assert is_study(root)
    assert (report.summary.finished, report.summary.total) == (10, 40)
    found = [(name, found.outcome, found.claim.strengths) for name, found in report.judged]
    assert found[:4] == [("Assault", "holds", (0,))] * 2 + [("Assault", "unclear", (1, 2, 4, 8))] * 2
    assert {outcome for _, outcome, _ in found[4:]} == {"not computed"}
    assert report.judged[0][1].evidence.startswith("SAP-100, mask backward − original. λ = 0: -50.0 points [-51.")
    assert report.judged[1][1].evidence.endswith("], claimed -6.1 % or less")
    assert report.judged[2][1].evidence.endswith("λ = 2 not computed; λ = 4 not computed; λ = 8 not computed")
    page = (root / "report.html").read_text(encoding="utf-8")
    for text in ("<b>-50.0</b>", "paper -12.2", "paper +10.4", ">blank</b>", "10 of 40 cells", "preset smoke, 16 steps",
                 ">Assault</a>", ">Bowling</a>", "paper +3425.9", "Not computed yet.",
                 "Each number: 6 games of 2 seeds without an attack and 6 games of 2 seeds under one, of one trained",
                 "after 400 frames, as none was", "0 lie within the 95 % interval of the one measured here, 1 outside",
                 "ε = 0.05, sticky actions off", "(Welch&#39;s test, 95 %): original at λ = 1.</p>",
                 "average 2 passes, their actions 2"):  # fmt: skip
        assert text in page
    assert "<script" not in page
    assert (root / "table1.csv").read_text().splitlines()[1].startswith("assault,original,0.0,6,100.0,")
    assert page.count("<svg") == 1
    assert "var(--curve-1)" in page
    assert {path.name for path in (root / "figures").iterdir()} == {"points.svg", "points.pdf"}
    assert [path.name for path in report.files] == [
        "report.html", "results.md", "table1.csv", "table1.parquet", "points.svg", "points.pdf"
    ]  # fmt: skip
    assert all(path.is_file() for path in report.files)


def test_the_results_for_a_repository_say_what_the_page_says(written):
    lines = (written[1] / "results.md").read_text(encoding="utf-8").splitlines()
    starts = [" | ".join(line.split(" | ")[:3]) for line in lines]
    assert "| SAP-100 costs points where nobody attacks. | Assault | **holds**" in starts
    assert "| original | 100.0 [99.1, 100.9] | 0.0 [-0.9, 0.9] | 10.0 [9.1, 10.9] |" in lines
    assert "| λ | Assault, % |" in lines
    (clean,) = (line for line in lines if line.startswith("| 0 |"))
    assert clean.startswith("| 0 | -50.0 [-51.0, -49.0]")
    assert clean.endswith("]; paper -12.2 |")
    assert "| 1 | blank; paper +10.4 |" in lines
    assert "![Mean points against strength](figures/points.svg)" in lines
    assert any(line.startswith("Of the paper's ") for line in lines)
    assert any(line.startswith("Each number: 6 games of 2 seeds without an attack") for line in lines)
    assert "Not played." in lines
    assert "Not shown to play better than at random (Welch's test, 95 %): original at λ = 1." in lines


def test_agents_that_play_worse_than_at_random_are_named(tmp_path):
    root = tmp_path / "run"
    store = stored(root, {("assault", True, 2): 1.5, ("assault", True, 4): -50.0, ("assault", True, 8): 90.0})
    store.save(
        next(cell for cell in store.request.cells if cell.eps == (0.0,)), GameResult(np.full(3, 7.0), np.full(3, 9), {})
    )
    (section,) = write_study(store).sections
    assert not any(
        figure.random for figure in (*figures_of("assault", sticky=0.25), *figures_of("assault", whole=False))
    )
    assert section.no_better.endswith("(Welch's test, 95 %): SAP-100, mask backward at λ = 2, 4 (worse at 4).")


def test_a_table_of_which_no_number_is_played_has_no_drawing(tmp_path):
    store = stored(tmp_path, {})
    with pytest.raises(ValueError, match="holds no finished cell yet"):
        write_study(store)
    store.save(store.request.cells[0], GameResult(np.ones(3), np.ones(3, np.int64), {}))
    write_study(store)
    assert not list((tmp_path / "figures").iterdir())
    assert "<svg" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    results = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "figures/" not in results
    assert "Not played." in results


def test_a_table_says_how_far_it_is_as_other_runs_do(tmp_path):
    found = progress_of(stored(tmp_path, {("assault", False, 0): 100.0, ("assault", False, 1): 5.0}))
    assert (found.stored, found.total, found.ranges) == (4, 20, "episodes")
    assert [(curve.stored, curve.total) for curve in found.curves] == [(4, 10), (0, 10)]


def test_a_claim_is_contradicted_by_one_strength(tmp_path):
    scores = {("assault", d, s): 50.0 + d * (-20 if s == 4 else 20) for d in (False, True) for s in (0, 1, 2, 4, 8)}
    report = write_study(stored(tmp_path, scores))
    assert [found.outcome for _, found in report.judged] == ["does not hold"] * 4
    assert report.tally == "Of 4 claims, 4 do not hold."
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
    monkeypatch.setitem(plan.EFFORTS, "smoke", Effort(2, 2, 1, 1, 1, 40))
    agent(tmp_path / "agents" / "Assault")
    words = ("reproduce", "table1", "--preset", "smoke", "--agents", tmp_path / "agents", "--out", tmp_path / "run",
             "--threads", 1, "--json")  # fmt: skip
    first = invoke(*words)
    assert first.exit_code == 0, first.output
    assert "left out, as no agent is in" in first.stderr
    assert "Asterix, BankHeist, BattleZone, BeamRider, Bowling" in first.stderr
    some = invoke(*words, "--games", "Bowling,Assault", "--dry-run")
    assert "left out, as no agent is in" in some.stderr
    left = json.loads(some.stdout)
    assert left["curves"] == ["Assault: original", "Assault: SAP-100, mask backward"]
    assert (left["cells"], left["to_compute"], left["games"], left["most_actions_of_a_game"]) == (10, 0, 0, 10)
    twice = json.loads(invoke(*words, "--seeds", 2, "--dry-run").stdout)
    assert (twice["cells"], twice["to_compute"], twice["games"]) == (20, 10, 20)
    names = ("--games", "Bowling,Assault,Assault", "--seeds", 2, "--sticky", 0.25)
    monkeypatch.chdir(tmp_path)
    assert json.loads(invoke(*words[:6], *names, *words[8:], "--dry-run").stdout)["run"] == (
        "runs/smoke-table1-Assault-Bowling-sticky-0.25"
    )
    assert "Asterix" not in some.stderr
    assert "no agent of its games is in" in str(invoke(*words, "--games", "Bowling").exception)
    assert "no agent of its games is in" in str(invoke(*words, "--games", " bank_heist,,Bowling").exception)
    for name in ("table1", "all"):
        wrong = invoke("reproduce", name, *words[2:], "--games", "Assault,Bankheist", "--data", "sample")
        assert "got 'Bankheist'; did you mean BankHeist?" in str(wrong.exception)
    found = json.loads(first.stdout)
    assert [(row["game"], row["strength"]) for row in found["rows"][:5]] == [("assault", s) for s in STRENGTHS]
    assert len(found["claims"]) == 4
    cells = sorted((tmp_path / "run" / "cells").glob("*.safetensors"))
    assert len(cells) == 10
    cells[3].unlink()
    cells[4].write_bytes(b"broken")
    with monkeypatch.context() as patch:
        patch.setattr("saplab.runs.games.play", refuses(40))
        failed = invoke(*words)
    assert failed.exit_code == 1
    assert "failed after 3 tries: episodes 0..2: RuntimeError: no luck" in failed.stderr
    assert "; computing it again" in failed.stderr
    (progress,) = json.loads(invoke("runs", tmp_path / "run", "--json").stdout)["runs"]
    assert (progress["stored"], progress["total"], progress["state"], progress["engine"]) == (
        8, 10, "stopped", "in process"
    )  # fmt: skip
    assert len(progress["failures"]) == 2
    again = invoke(*words)
    assert again.exit_code == 0
    assert json.loads(again.stdout)["rows"] == found["rows"]
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


def test_games_without_a_spread_leave_a_claim_unclear():
    """They were played, and nothing is known of how they vary."""
    claim = Claim("It loses.", "a", "lower", (0,), "b")
    found = judge(claim, {"a": {0: [29.0] * 5}, "b": {0: [30.0] * 5}})
    assert (found.outcome, "without a spread" in found.evidence) == ("unclear", True)
    assert judge(claim, {}).outcome == "not computed"
    half = Claim("It gains so much.", "a", "higher", (0,), "b", {0: 5.2})
    assert judge(half, {"a": {0: [60.0] * 42}, "b": {0: [30.0] * 42}}).outcome == "unclear"


def test_what_few_other_games_decide_is_not_called_a_gain():
    """38 of 42 games end alike: Welch's interval lies above zero, and as many orders of the games say the same."""
    claim = Claim("It gains.", "a", "higher", (1,), "b")
    found = judge(claim, {"a": {1: [30.0] * 38 + [31.0] * 4}, "b": {1: [30.0] * 42}})
    said = "a − b. λ = 1: +0.1 points [+0.0, +0.2] (by a permutation test p = 0.11)"
    assert (found.outcome, found.evidence) == ("unclear", said)
    assert judge(claim, {"a": {1: [30.0] * 30 + [31.0] * 12}, "b": {1: [30.0] * 42}}).outcome == "holds"


@pytest.mark.parametrize(
    ("relation", "by", "mean", "outcome"),
    [
        ("higher", 50.0, 200.0, "holds"), ("higher", 50.0, 120.0, "does not hold"), ("higher", 50.0, 150.0, "unclear"),
        ("lower", -50.0, 20.0, "holds"), ("lower", -50.0, 80.0, "does not hold"), ("lower", -50.0, 50.0, "unclear"),
    ],
)  # fmt: skip
def test_a_claim_of_how_much_is_judged_by_the_relative_change(relation, by, mean, outcome):
    """Both intervals are those of the change in percent, in points and as Fieller gives it."""
    noise = np.random.default_rng(0).standard_normal((2, 200))
    noise -= noise.mean(1, keepdims=True)
    first, second = mean + 10 * noise[0], 100 + 10 * noise[1]
    claim = Claim("So much.", "a", relation, (2,), "b", {2: by})
    found = judge(claim, {"a": {2: first}, "b": {2: second}})
    assert found.outcome == outcome
    change = relative_change(first, second)
    assert f"λ = 2: {mean - 100:+.1f} % [{change.low:+.1f}, {change.high:+.1f}], claimed {by:+.1f} %" in found.evidence


def test_a_change_that_is_not_bounded_is_judged_all_the_same():
    """The original's points may be near zero, as in the paper's Bowling: then thirty-fold points are far away."""
    second = [0.0] * 50 + [1.0] * 2
    found = judge(Claim("So much.", "a", "higher", (1,), "b", {1: 1e4}), {"a": {1: [0.0, 1.0] * 26}, "b": {1: second}})
    assert "no bounded change in %, claimed +10000.0 % or more" in found.evidence


@pytest.mark.parametrize("by", [{2: -5.0}, {2: 0.0}, {4: 5.0}, {2: 5.0, 4: 5.0}])
def test_how_much_must_fit_the_direction_and_the_strengths(by):
    with pytest.raises(ValueError, match="how much higher"):
        Claim("So much.", "a", "higher", (2,), "b", by)
    with pytest.raises(ValueError, match="how much higher"):
        Claim("So much.", "a", "alike", (2,), "b", {2: 5.0})


def test_how_much_is_said_of_points_alone():
    lines = (Line("a"), Line("b", defense="sap"))
    with pytest.raises(ValueError, match="`by` is for points of games"):
        Figure("f", lines=lines, claims=(Claim("So much.", "a", "higher", (2,), "b", {2: 5.0}),))

"""Cells of games: their store, the scores, the paper's table, the clip, and the command."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from catch import Catch, CatchNetwork
from safetensors.torch import save_file
from typer.testing import CliRunner

from saplab.attacks import FGSM, RandomNoise
from saplab.cli import app
from saplab.metrics.scores import mean_score, relative_change
from saplab.models.qnetwork import new_network
from saplab.paper.game_table import line, rows, to_csv, to_records
from saplab.rl import play as play_module
from saplab.rl.agents import Facts
from saplab.rl.card import write_card
from saplab.rl.play import Moment, Rules
from saplab.rl.recipes import find_recipe
from saplab.rl.records import AgentRecord
from saplab.rl.video import Clip
from saplab.runs import BrokenCellError
from saplab.runs.cell import Network
from saplab.runs.engines.in_process import InProcess, run
from saplab.runs.engines.processes import Workers
from saplab.runs.game_cell import GameCell
from saplab.runs.game_store import GameResult, game_store
from saplab.runs.games import Agents, adversary_of, compute, rehearse
from saplab.runs.record import failures

MISSING = [name for name in ("ale_py", "gymnasium") if importlib.util.find_spec(name) is None]
needs_ale = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra rl: {', '.join(MISSING)} is not installed")
AGENT = Network("agent:catch", "d" * 64)
FGSM_ONE = {"name": "fgsm", "samples": 1, "backward": "mask", "average": "loss", "loss": "cross-entropy"}
PLAIN = GameCell("catch", AGENT, AGENT, FGSM_ONE, 8.0, 0, 4)
SAP = replace(AGENT, defense="sap:100")


@pytest.fixture
def agents():
    return Agents({(AGENT.model, AGENT.digest): CatchNetwork()})


@pytest.fixture
def toys(monkeypatch):
    """Play the toy instead of Atari games."""
    monkeypatch.setattr(play_module, "Games", lambda game, count, sticky, max_frames: Catch(count))


# Cells


def test_without_strength_every_attack_is_the_same_cell():
    noise, newest = replace(PLAIN, attack={"name": "noise"}), replace(PLAIN, newest=True)
    assert len({cell.digest for cell in (PLAIN, noise, newest)}) == 3
    assert len({replace(cell, strength=0).digest for cell in (PLAIN, noise, newest)}) == 1


def test_random_noise_has_no_adversarys_network():
    noise = replace(PLAIN, defender=SAP, attack={"name": "noise"})
    assert replace(noise, adversary=SAP).digest == noise.digest
    assert replace(PLAIN, defender=SAP, adversary=SAP).digest != replace(PLAIN, defender=SAP).digest


@pytest.mark.parametrize(
    "change",
    [{"game": "pong"}, {"defender": SAP}, {"adversary": SAP}, {"attack": {**FGSM_ONE, "samples": 2}}, {"strength": 4},
     {"start": 1}, {"stop": 5}, {"seed": 1}, {"passes": 2}, {"newest": True}, {"sticky": 0.25}, {"epsilon": 0.0},
     {"max_frames": 400}, {"precision": "bfloat16"}],
)  # fmt: skip
def test_whatever_decides_scores_names_another_cell(change):
    assert replace(PLAIN, **change).digest != PLAIN.digest


def test_a_cell_makes_its_adversary(agents):
    assert adversary_of(replace(PLAIN, strength=0.0), agents) is None
    own = adversary_of(replace(PLAIN, seed=3, newest=True, attack={**FGSM_ONE, "samples": 5}), agents)
    assert (own.eps, own.samples, own.seed, own.newest) == (8 / 255, 5, 3, True)
    assert isinstance(own.attack, FGSM)
    square = adversary_of(replace(PLAIN, attack={"name": "square", "passes": 7}), agents)
    assert (square.samples, square.attack.passes) == (7, 7)
    noise = adversary_of(replace(PLAIN, attack={"name": "noise"}), agents)
    assert isinstance(noise.attack, RandomNoise)
    assert noise.samples == 0


def test_scores_of_a_cell_are_those_of_its_episodes(agents, toys):
    ticks = []
    whole = compute(PLAIN, agents, ticks.append)
    part = compute(replace(PLAIN, start=2), agents)
    assert whole.scores[2:] == part.scores
    assert (sum(ticks), len(whole.steps)) == (4, 4)
    assert compute(replace(PLAIN, strength=0.0), agents).scores != whole.scores
    assert compute(replace(PLAIN, seed=1), agents).scores != whole.scores
    with pytest.raises(ValueError, match="`precision` must be one of float32, bfloat16, got 'int8'"):
        compute(replace(PLAIN, precision="int8"), agents)


def test_a_rehearsal_refuses_what_cannot_be_computed(agents, toys):
    rehearse([PLAIN, replace(PLAIN, defender=SAP, adversary=SAP)], agents)
    with pytest.raises(ValueError, match="`defense` must be one of"):
        rehearse([PLAIN, replace(PLAIN, defender=replace(AGENT, defense="magic:1"))], agents)


# The store


def test_a_stopped_run_computes_what_is_missing(agents, toys, tmp_path):
    cells = [replace(PLAIN, seed=seed) for seed in range(3)]
    assert run(game_store(tmp_path, cells[:1]), agents) == ()
    store = game_store(tmp_path, [*cells, cells[2]])
    store.path(cells[1]).write_text("{")
    assert store.missing() == tuple(cells[1:])
    first, ticks = store.path(cells[0]).read_bytes(), []
    assert run(store, agents, ticks.append) == ()
    assert store.missing() == ()
    assert sum(ticks) == 2 * 4  # games
    assert store.path(cells[0]).read_bytes() == first
    assert store.load(cells[2]).scores == compute(cells[2], agents).scores


def test_a_cell_that_fails_is_noted_and_the_others_are_played(agents, toys, tmp_path):
    strange = replace(PLAIN, defender=replace(AGENT, defense="magic:1"))
    store = game_store(tmp_path, [strange, PLAIN])
    (failed,) = run(store, agents)
    assert failed.group == (strange,)
    assert store.missing() == (strange,)
    assert [(note["cells"], note["tries"]) for note in failures(tmp_path)] == [([strange.digest], 1)]


def test_a_result_comes_back_as_it_was_and_damage_is_seen(tmp_path):
    store, result = game_store(tmp_path), GameResult((1.0, 0.1, -2.5, 3.0), (5, 6, 7, 8), {"threads": 1})
    store.save(PLAIN, result)
    assert store.load(PLAIN) == result
    text = store.path(PLAIN).read_text()
    other = replace(PLAIN, seed=9)
    store.path(other).write_text(text)
    with pytest.raises(BrokenCellError, match="result of another cell"):
        store.load(other)
    store.path(PLAIN).write_text(text.replace("-2.5", "-2.6"))
    with pytest.raises(BrokenCellError, match="do not match its checksum"):
        store.load(PLAIN)
    store.path(PLAIN).write_text(text[:40])
    with pytest.raises(BrokenCellError, match="is damaged"):
        store.load(PLAIN)
    with pytest.raises(FileNotFoundError):
        store.load(replace(PLAIN, seed=10))
    with pytest.raises(ValueError, match="`result` must hold 4 episodes, got 3"):
        store.save(PLAIN, GameResult((1.0,) * 3, (1,) * 3, {}))


@needs_ale
def test_workers_give_the_same_scores_bit_for_bit(tmp_path):
    """Real games, as the toy is not there for other processes."""
    agent = Network("agent:assault", "a" * 64)
    plain = GameCell("assault", agent, agent, FGSM_ONE, 8.0, 0, 2, max_frames=160)
    sap = replace(agent, defense="sap:100")
    cells = [plain, replace(plain, seed=1), replace(plain, defender=sap, adversary=sap, passes=2)]
    agents = Agents({(agent.model, agent.digest): new_network(7, 0)})
    ticks, stores = [], [game_store(tmp_path / name, cells) for name in ("alone", "shared")]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for store, engine in zip(stores, (InProcess(), Workers(2, 1)), strict=True):
            store.make()
            assert run(store, agents, ticks.append, engine) == ()
    finally:
        torch.set_num_threads(before)
    alone, shared = ([store.load(cell) for cell in cells] for store in stores)
    assert [(r.scores, r.steps) for r in alone] == [(r.scores, r.steps) for r in shared]
    assert [r.made["threads"] for r in shared] == [1, 1, 1]
    assert len({r.scores for r in alone}) > 1
    assert sum(ticks) == 2 * 6


# Scores


def test_the_interval_of_a_mean_is_students():
    score = mean_score([1.0, 2.0, 3.0, 4.0])
    half = 3.182446305 * np.sqrt(5 / 3 / 4)  # Student's 97.5 % quantile at 3 degrees of freedom
    assert (score.mean, score.games) == (2.5, 4)
    assert score.high - score.mean == pytest.approx(half, rel=1e-8)
    assert score.mean - score.low == pytest.approx(half, rel=1e-8)
    assert str(score) == "2.5 ±2.1"
    assert (mean_score([7.0]).low, str(mean_score([7.0]))) == (None, "7.0")
    with pytest.raises(ValueError, match="`scores` must be finite numbers"):
        mean_score([])


def test_a_relative_change_is_the_papers_with_fiellers_interval():
    change = relative_change([3.0, 5.0], [1.0, 3.0])
    assert change is None  # 2 ± 9 cannot be told from zero
    change = relative_change([4.0, 4.0, 4.0], [2.0, 2.0])
    assert (change.percent, change.low, change.high) == (100.0, 100.0, 100.0)
    draws = np.random.default_rng(0)
    a, b = draws.normal(30, 6, 40), draws.normal(20, 4, 40)
    change = relative_change(a, b)
    assert change.percent == pytest.approx(100 * (a.mean() / b.mean() - 1))
    for bound in (change.low, change.high):  # Fieller: where a - ρb is at the end of its own interval
        ratio = 1 + bound / 100
        spread = np.sqrt(a.var(ddof=1) / 40 + ratio**2 * b.var(ddof=1) / 40)
        assert abs(a.mean() - ratio * b.mean()) / spread == pytest.approx(2.0, abs=0.03)


def test_the_interval_covers_the_true_change_as_often_as_it_says():
    draws = np.random.default_rng(1)
    covered = 0
    for _ in range(1_000):
        change = relative_change(draws.exponential(3.0, 60), draws.exponential(2.0, 60))
        covered += change.low <= 50.0 <= change.high
    assert 0.92 < covered / 1_000 < 0.98  # 95 % within four standard errors, and skewed scores


def test_a_score_near_zero_gives_a_blank():
    assert relative_change([10.0, 12.0], [0.0, 0.0]) is None
    assert relative_change([10.0, 12.0, 9.0], [0.0, 0.0, 1.0]) is None
    assert relative_change([10.0, 12.0], [-5.0, -5.0]) is None
    assert relative_change([10.0], [5.0, 5.0]) is None


# The table


def test_rows_compare_with_the_original_at_the_same_strength(tmp_path):
    store = game_store(tmp_path)
    assault = replace(PLAIN, game="assault", stop=2)
    original = line(assault, (0.0, 1.0), 2)
    sap = line(replace(assault, defender=SAP, adversary=SAP), (0.0, 1.0), 2, original)
    for one, scores in ((original, {0.0: 10.0, 1.0: 0.0}), (sap, {0.0: 5.0})):
        for strength, score in scores.items():
            for cell in one.cells[strength]:
                store.save(cell, GameResult((score - 1, score + 1), (100, 300), {}))
    found = list(rows(store, [original, sap]))
    assert [(row.label, row.strength, row.score.mean) for row in found] == [
        ("original", 0.0, 10.0), ("original", 1.0, 0.0), ("SAP-100, mask backward", 0.0, 5.0)
    ]  # fmt: skip
    assert [row.compared for row in found] == [False, False, True]
    assert found[2].change.percent == pytest.approx(-50.0)
    assert (found[2].paper, found[2].score.games, found[2].steps) == (-12.2, 4, 200.0)
    for cell in sap.cells[1.0]:
        store.save(cell, GameResult((7.0, 8.0), (1, 1), {}))
    found = list(rows(store, [original, sap]))
    assert (found[3].compared, found[3].change, found[3].paper) == (True, None, 10.4)
    records = to_records(found)
    assert [record["change_percent"] for record in records] == [None, None, pytest.approx(-50.0), None]
    text = to_csv(found).splitlines()
    assert len(text) == 5
    assert text[1].startswith("assault,original,0.0,4,10.0,")


# The card and the clip


def test_a_card_says_what_was_measured():
    facts = Facts("bowling", "small", 1_000, 0, "0" * 64, (30.0, 40.0, 50.0), (20.0, 25.0, 30.0))
    history = [AgentRecord(500, 2.0, 250.0, 0.5, 1e-4, 0.1, 3, 25.0), AgentRecord(1_000, 4.0, 125.0, 0.1, 1e-5, 0.1, 0,
               None, (30.0, 32.0))]  # fmt: skip
    rules = Rules("bowling", sticky=0.25)
    card = write_card(facts, find_recipe("small"), history, rules, "saplab train-agent Bowling", "a machine")
    for text in ("| this agent | 40.0 ±24.8 | 3 |", "| random play | 25.0 ±12.4 | 3 |", "68.1", "1,000 agent steps",
                 "| 1,000 | 0.10 | – | 0 | 31.0 ±12.7 |", "`saplab train-agent Bowling`", "- batch: 64",
                 "sticky actions 0.25", "the weights after 1,000 steps, which scored most"):  # fmt: skip
        assert text in card
    last = write_card(facts, find_recipe("paper"), history, rules, "saplab train-agent Bowling", "a machine")
    assert "the weights after the last step; no evaluation decided anything" in last


def moment(episodes=(0,)):
    count = len(episodes)
    shown = torch.full((count, 4, 84, 84), 0.5)
    values = torch.tensor([[0.0, 1.0, 3.0]]).repeat(count, 1)
    return Moment(episodes, shown, shown + 4 / 255, values, np.full(count, 2), (7.0,) * count)


def test_a_clip_shows_the_frame_the_perturbation_and_the_action(tmp_path):
    image = pytest.importorskip("PIL.Image")
    clip = Clip("bowling", ("NOOP", "FIRE", "UP"), lam=4, episode=3, steps=2)
    for episodes in ((0, 3), (3,), (3,)):
        clip.watch(moment(episodes))
    clip.save(tmp_path / "clip.gif")
    with image.open(tmp_path / "clip.gif") as gif:
        assert gif.n_frames == 1 or gif.n_frames == 2  # equal frames may be merged
    frame = clip.frames[0].convert("RGB")
    assert len(clip.frames) == 2
    seen, added = frame.getpixel((100, 100)), frame.getpixel((100 + 252 + 10, 100))
    assert seen == (132, 132, 132)  # 0.5 · 255 + 4
    assert added == (248, 248, 248)  # 128 + 4 · (120 / 4)
    with pytest.raises(ValueError, match=r"`video` must end in \.gif"):
        clip.save(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="episode 5 was not played"):
        Clip("bowling", ("NOOP",), 0, episode=5).save(tmp_path / "other.gif")


# The command


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@needs_ale
def test_play_shows_a_table_and_goes_on_where_it_stopped(tmp_path):
    network = new_network(7, 0)
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, tmp_path / "agent.safetensors")
    words = ("play", "Assault", "--agent", tmp_path / "agent.safetensors", "--defense", "sap:100", "--lambda", "0,8",
             "--episodes", 2, "--seeds", 1, "--samples", 1, "--passes", 1, "--max-frames", 160, "--out",
             tmp_path, "--video", tmp_path / "clip.gif", "--json")  # fmt: skip
    first = invoke(*words)
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout.splitlines()[-1])
    assert [(row["agent"], row["strength"]) for row in found["rows"]] == [
        ("original", 0.0), ("original", 8.0), ("SAP-100, mask backward", 0.0), ("SAP-100, mask backward", 8.0)
    ]  # fmt: skip
    assert all(row["games"] == 2 for row in found["rows"])
    stored = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "games").glob("*.json")}
    assert len(stored) == 4
    again = invoke(*words)
    assert json.loads(again.stdout.splitlines()[-1]) == found
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "games").glob("*.json")} == stored
    assert "games:" not in again.stderr
    assert "Points in assault" in again.stderr
    assert (tmp_path / "clip.gif").stat().st_size > 1_000


@needs_ale
def test_attacks_of_many_steps_see_the_newest_frame_alone(tmp_path):
    network = new_network(7, 0)
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, tmp_path / "agent.safetensors")
    words = ("play", "Assault", "--agent", tmp_path / "agent.safetensors", "--defense", "sap:100", "--lambda", "8",
             "--attack", "pgd:steps=2+square:queries=2,passes=2", "--newest-frame", "--episodes", 2, "--seeds", 1,
             "--samples", 2, "--passes", 1, "--max-frames", 40, "--out", tmp_path, "--json")  # fmt: skip
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert [row["agent"] for row in json.loads(result.stdout.splitlines()[-1])["rows"]] == [
        "original, PGD-2, newest frame", "original, Square, newest frame",
        "SAP-100, PGD-2, mask backward, newest frame", "SAP-100, Square, newest frame",
    ]  # fmt: skip
    twice = invoke(*words[:-1], "--attack", "pgd:steps=2+pgd:steps=2,restarts=2")
    assert "gives two different lines the name" in str(twice.exception)


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


@needs_ale
def test_an_attack_lowers_the_score_of_a_shipped_agent():
    from saplab.models.zoo import weights_digest
    from saplab.rl.agents import load_agent

    network = load_agent("asterix")
    agent = Network("agent:asterix", weights_digest(network))
    agents = Agents({(agent.model, agent.digest): network})
    cell = GameCell("asterix", agent, agent, FGSM_ONE, 8.0, 0, 8, max_frames=4_000)
    clean, attacked = (mean_score(compute(replace(cell, strength=lam), agents).scores) for lam in (0.0, 8.0))
    assert attacked.high < clean.low

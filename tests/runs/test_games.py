"""Cells of games: what decides them, how they are computed, and the folder that runs share."""

import importlib.util
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from catch import Catch, CatchNetwork

from saplab.attacks import FGSM, MonteCarlo, RandomNoise, Square, ThreatModel
from saplab.defenses import SAP
from saplab.metrics.scores import mean_score
from saplab.models.qnetwork import new_network
from saplab.rl import play as play_module
from saplab.runs import BrokenCellError, Curve, GameCell, GameResult, Network, Request, Store, cut, run, work_of
from saplab.runs.engines import InProcess, Workers
from saplab.runs.games import Games
from saplab.runs.record import failures

MISSING = [name for name in ("ale_py", "gymnasium") if importlib.util.find_spec(name) is None]
needs_ale = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra rl: {', '.join(MISSING)} is not installed")
AGENT = Network("agent:catch", "d" * 64)
DEFENDED = replace(AGENT, defenses=(SAP(100),))
EPS = 8 / 255
PLAIN = GameCell(defender=AGENT, adversary=AGENT, attack=FGSM(), eps=(EPS,), start=0, stop=4, game="catch")
SHIELDED = replace(PLAIN, defender=DEFENDED, adversary=DEFENDED)


@pytest.fixture
def agents():
    return Games({(AGENT.model, AGENT.digest): CatchNetwork()})


@pytest.fixture
def toys(monkeypatch):
    """Play the toy instead of Atari games."""
    monkeypatch.setattr(play_module, "Games", lambda game, count, sticky, max_frames: Catch(count))


def request_of(*cells):
    return Request("games", tuple(Curve(str(k), (cell,)) for k, cell in enumerate(cells)))


def scores(games, cell):
    return games.play(cell).scores.tolist()


# Cells


def test_without_a_radius_every_attack_is_the_same_cell():
    some = [PLAIN, replace(PLAIN, attack=RandomNoise()), replace(PLAIN, newest=True)]
    assert len({cell.plain.digest for cell in some}) == 3
    assert len({replace(cell, eps=(0.0,)).plain.digest for cell in some}) == 1
    assert replace(PLAIN, eps=(0,)).plain.attack is None


def test_random_noise_has_no_adversarys_network():
    noise = replace(SHIELDED, attack=RandomNoise())
    assert replace(noise, adversary=AGENT).plain.digest == noise.plain.digest
    assert replace(SHIELDED, adversary=AGENT).plain.digest != SHIELDED.plain.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [({"eps": ()}, r"one radius within \[0, 1\], got \(\)"), ({"eps": (0.0, EPS)}, "one radius"),
     ({"eps": (8.0,)}, "one radius"), ({"stop": 0}, "a range of episodes must hold at least one, got 0..0"),
     ({"threat": ThreatModel(bounds=(-1, 1))}, r"attacked in L∞ within \[0, 1\]")],
)  # fmt: skip
def test_cells_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)


# Computing


def test_a_cell_makes_its_adversary(agents):
    assert agents._adversary(replace(PLAIN, eps=(0.0,))) is None
    assert agents._adversary(replace(PLAIN, attack=None)) is None
    own = agents._adversary(replace(PLAIN, seed=3, newest=True, attack=FGSM(MonteCarlo(5))))
    assert (own.eps, own.samples, own.seed, own.newest) == (EPS, 5, 3, True)
    assert own.attack == FGSM(MonteCarlo(5))
    assert agents._adversary(replace(PLAIN, attack=Square(passes=7))).samples == 7
    assert agents._adversary(replace(PLAIN, attack=RandomNoise())).samples == 0


def test_scores_of_a_cell_are_those_of_its_episodes(agents, toys):
    ticks = []
    (whole,) = agents.compute((PLAIN,), ticks.append)
    assert scores(agents, replace(PLAIN, start=2)) == whole.scores[2:].tolist()
    assert (sum(ticks), len(whole.steps)) == (work_of([PLAIN]), 4)
    assert len(ticks) > max(whole.steps)  # a game is seen to go on before it ends
    assert min(ticks) >= 0
    others = [replace(PLAIN, eps=(0.0,)), replace(PLAIN, seed=1), replace(SHIELDED, passes=3)]
    assert all(scores(agents, cell) != whole.scores.tolist() for cell in others)
    with pytest.raises(ValueError, match="`precision` must be one of float32, bfloat16, got 'int8'"):
        agents.play(replace(PLAIN, precision="int8"))
    with pytest.raises(ValueError, match="a cell for `device` cuda cannot be computed on cpu"):
        agents.compute((replace(PLAIN, device="cuda"),))


def test_a_rehearsal_refuses_what_cannot_be_computed(agents, toys):
    agents.rehearse([PLAIN, SHIELDED, replace(PLAIN, device="cuda")])  # which workers elsewhere may have
    with pytest.raises(ValueError, match="sites"):
        agents.rehearse([replace(PLAIN, defender=replace(DEFENDED, sites=("nowhere",)))])
    with pytest.raises(ValueError, match="seed"):
        agents.rehearse([replace(PLAIN, seed=-1)])


def test_each_kind_of_cell_is_rehearsed_once(agents, toys, monkeypatch):
    played = []
    monkeypatch.setattr(Games, "play", lambda games, cell: played.append(cell))
    agents.rehearse([*cut(PLAIN, 2, seeds=3)[0], replace(PLAIN, eps=(0.1,)), replace(PLAIN, eps=(0.0,)), SHIELDED])
    assert [(cell.start, cell.stop, cell.eps) for cell in played] == [(0, 1, (1.0,)), (0, 1, (0.0,)), (0, 1, (1.0,))]


# The store


def test_a_stopped_run_computes_what_is_missing(agents, toys, tmp_path):
    cells = [replace(PLAIN, seed=seed) for seed in range(3)]
    assert run(Store.open(tmp_path, request_of(cells[0])), agents) == ()
    store = Store.open(tmp_path, request_of(*cells))
    store.path(cells[1]).write_text("{")
    assert store.survey().missing == tuple(cells[1:])
    first, ticks = store.path(cells[0]).read_bytes(), []
    assert run(store, agents, ticks.append) == ()
    assert store.survey().missing == ()
    assert sum(ticks) == work_of(cells[1:]) == 2 * work_of(cells[:1])
    assert store.path(cells[0]).read_bytes() == first
    assert store.load(cells[2]).scores.tolist() == scores(agents, cells[2])


def test_requests_for_games_share_a_folder(agents, toys, tmp_path):
    """What another request asked for is neither foreign nor computed again."""
    other = replace(PLAIN, seed=1)
    assert run(Store.open(tmp_path, request_of(PLAIN)), agents) == ()
    store = Store.open(tmp_path, request_of(other))
    assert (store.survey().missing, store.survey().foreign) == ((other,), ())
    assert Store.open(tmp_path, request_of(other, PLAIN)).survey().missing == (other,)


def test_a_curve_of_games_may_hold_several_radii(tmp_path):
    radii = tuple(part for eps in (0.0, EPS) for part in cut(replace(PLAIN, eps=(eps,)).plain, 3)[0])
    repeats = (tuple(replace(cell, seed=1) for cell in radii),)
    curve = Curve("original", radii, repeats=repeats, figure="catch", paper={8.0: -12.2}, against="original")
    request = Request("t", (curve,))
    assert Request.from_json(request.to_json()) == request
    assert curve.eps == (0.0, EPS)
    assert [(cell.start, cell.seed) for cell in curve.cells_at(EPS)] == [(0, 0), (3, 0), (0, 1), (3, 1)]


def test_a_cell_that_fails_is_noted_and_the_others_are_played(agents, toys, tmp_path):
    strange = replace(PLAIN, defender=replace(DEFENDED, sites=("nowhere",)))
    store = Store.open(tmp_path, request_of(strange, PLAIN))
    (failed,) = run(store, agents)
    assert failed.group == (strange,)
    assert store.survey().missing == (strange,)
    assert [(note.cells, note.tries) for note in failures(tmp_path)[0]] == [((strange.digest,), 1)]


def test_a_result_comes_back_as_it_was_and_damage_is_seen(tmp_path):
    points, steps = np.array([1.0, 0.1, -2.5, 3.0]), np.arange(5, 9)
    store, result = Store.open(tmp_path, request_of(PLAIN)), GameResult(points, steps, {"threads": 1})
    store.save(PLAIN, result)
    found = store.load(PLAIN)
    assert (found.scores.tobytes(), found.steps.tobytes(), found.made) == (
        points.tobytes(),
        steps.tobytes(),
        {"threads": 1},
    )
    content = store.path(PLAIN).read_bytes()
    store.path(replace(PLAIN, seed=9)).write_bytes(content)
    with pytest.raises(BrokenCellError, match="result of another cell"):
        store.load(replace(PLAIN, seed=9))
    store.path(PLAIN).write_bytes(content.replace(points.tobytes(), np.array([1.0, 0.1, -2.6, 3.0]).tobytes()))
    with pytest.raises(BrokenCellError, match="do not match its checksum"):
        store.load(PLAIN)
    with pytest.raises(FileNotFoundError):
        store.load(replace(PLAIN, seed=10))
    with pytest.raises(ValueError, match=r"`scores` must be \(4,\) for this cell, got \(3,\)"):
        store.save(PLAIN, GameResult(points[:3], steps[:3], {}))


@pytest.mark.parametrize(
    ("points", "steps", "message"),
    [([1.0], [1, 2], "`steps` must be int64 (N=1), got int64 (2,)"), ([1], [1], "`scores` must be float64"),
     ([1.0], [1.0], "`steps` must be int64"), ([[1.0]], [1], "`scores` must be float64 (N=1), got float64 (1, 1)")],
)  # fmt: skip
def test_results_of_other_shapes_or_types_are_refused(points, steps, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GameResult(np.array(points), np.array(steps), {})


@needs_ale
def test_workers_give_the_same_scores_bit_for_bit(tmp_path):
    """Real games, as the toy is not there for other processes."""
    agent = Network("agent:assault", "a" * 64)
    sap = replace(agent, defenses=(SAP(100),))
    plain = replace(PLAIN, game="assault", defender=agent, adversary=agent, stop=2, max_frames=160)
    cells = [plain, replace(plain, seed=1), replace(plain, defender=sap, adversary=sap, passes=2)]
    agents = Games({(agent.model, agent.digest): new_network(7, 0)})
    ticks, stores = [], [Store.open(tmp_path / name, request_of(*cells)) for name in ("alone", "shared")]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for store, engine in zip(stores, (InProcess(), Workers(2, 1)), strict=True):
            assert run(store, agents, ticks.append, engine) == ()
    finally:
        torch.set_num_threads(before)
    alone, shared = ([store.load(cell) for cell in cells] for store in stores)
    assert [(r.scores.tobytes(), r.steps.tobytes()) for r in alone] == [
        (r.scores.tobytes(), r.steps.tobytes()) for r in shared
    ]
    assert [r.made["threads"] for r in shared] == [1, 1, 1]
    assert len({r.scores.tobytes() for r in alone}) > 1
    assert sum(ticks) == 2 * work_of(cells)


@needs_ale
def test_an_attack_lowers_the_score_of_a_shipped_agent():
    from saplab.models.identity import weights_digest
    from saplab.rl.agents import load_agent

    network = load_agent("asterix")
    agent = Network("agent:asterix", weights_digest(network))
    agents = Games({(agent.model, agent.digest): network})
    cell = replace(PLAIN, game="asterix", defender=agent, adversary=agent, stop=8, max_frames=4_000)
    clean, attacked = (mean_score(agents.play(replace(cell, eps=(eps,))).scores) for eps in (0.0, EPS))
    assert attacked.high < clean.low

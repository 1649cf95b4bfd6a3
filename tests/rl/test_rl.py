"""Double DQN: its targets, its replay buffer, its loop on a toy game, and how a run goes on."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from catch import LIMIT, RECIPE, Catch, CatchNetwork, caught, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from saplab.learning.checkpoint import CHECKPOINT, HISTORY, RunFolder
from saplab.learning.plot import save_plot
from saplab.learning.progress import Progress
from saplab.models.qnetwork import QNetwork, new_network
from saplab.rl.ddqn import Learner, epsilon_greedy, td_targets
from saplab.rl.loop import Diverged, request_of, train_agent
from saplab.rl.plot import history_chart
from saplab.rl.recipes import RECIPES, RMSProp, find_recipe
from saplab.rl.records import AgentRecord, best_record
from saplab.rl.replay import Replay, Transitions

SHORT = replace(RECIPE, steps=1_200, record_every=400, score_every=400)


# Targets


def test_targets_take_the_target_networks_value_of_the_action_that_the_network_prefers():
    returns, discounts = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0.5, 0.0, 0.25])
    own = torch.tensor([[1.0, 9.0], [1.0, 9.0], [3.0, 2.0]])
    target = torch.tensor([[100.0, 10.0], [100.0, 10.0], [4.0, 100.0]])
    # prefers action 1, 1, 0; the second transition was terminal
    assert td_targets(returns, discounts, own, target).tolist() == [1 + 0.5 * 10, 1.0, 2 + 0.25 * 4]


def test_an_update_moves_only_the_value_of_the_action_taken():
    network = CatchNetwork()
    learner = Learner(network, replace(SHORT, clip=None))
    stacks = torch.randint(0, 255, (1, 4, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = network.layers[3].weight.detach().clone()
    batch = Transitions(stacks, torch.tensor([2]), torch.tensor([5.0]), torch.tensor([0.0]), stacks)
    loss = learner.update(batch, lr=1e-3)
    with torch.no_grad():
        value = CatchNetwork().of_bytes(stacks)[0, 2].item()
    assert loss == pytest.approx(abs(5 - value) - 0.5, abs=1e-5)  # Huber's loss beyond 1
    moved = (network.layers[3].weight != before).any(1)
    assert moved.tolist() == [False, False, True]


def test_the_target_network_changes_only_when_it_is_copied():
    learner = Learner(CatchNetwork(), SHORT)
    stacks = torch.ones((2, 4, 6, 5), dtype=torch.uint8)
    batch = Transitions(stacks, torch.tensor([0, 1]), torch.ones(2), torch.zeros(2), stacks)
    learner.update(batch, lr=1e-2)
    own, target = (dict(m.state_dict()) for m in (learner.network, learner.target))
    assert all(torch.equal(target[name], tensor) for name, tensor in CatchNetwork().state_dict().items())
    assert any(not torch.equal(target[name], tensor) for name, tensor in own.items())
    learner.copy_to_target()
    assert all(torch.equal(learner.target.state_dict()[name], tensor) for name, tensor in own.items())


def test_random_actions_come_as_often_as_epsilon_says():
    values = np.tile(np.array([[0.0, 0.0, 1.0, 0.0]], np.float32), (40_000, 1))
    actions = epsilon_greedy(values, 0.2, np.random.default_rng(0))
    share = (actions != 2).mean()  # three of four random actions
    assert abs(share - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 40_000)
    assert (epsilon_greedy(values[:100], 0.0, np.random.default_rng(0)) == 2).all()


# Replay


class Naive:
    """Keeps whole observations, and answers by looking."""

    def __init__(self, games):
        self.past = [[] for _ in range(games)]

    def add(self, game, stack, action, reward, terminal, last):
        self.past[game].append((stack, action, reward, terminal, last))

    def transition(self, game, time, gamma, n_step):
        stack, action, _, _, last = self.past[game][time]
        assert not last
        total, discount, now = 0.0, 1.0, time
        while now < time + n_step:
            _, _, reward, terminal, last = self.past[game][now]
            if last:
                break
            total += discount * reward
            discount *= gamma
            now += 1
            if terminal:
                discount = 0.0
                break
        return stack, action, total, discount, self.past[game][now][0]


def filled(draws, games, slots, steps, n_step, ends):
    """Fill both buffers alike; a frame's bytes spell its game and its time."""
    replay, naive = Replay(games * slots, games, (2, 2), 0.5, n_step), Naive(games)
    stacks = np.zeros((games, 4, 2, 2), np.uint8)
    first, over = np.ones(games, bool), np.zeros(games, bool)
    for time in range(steps):
        stacks[first] = 0
        stacks = np.roll(stacks, -1, 1)
        stacks[:, -1] = [[[game + 1, 7], [time >> 8, time & 255]] for game in range(games)]
        actions, rewards = draws.integers(4, size=games), draws.integers(-1, 2, games).astype(float)
        terminal, ended = draws.random(games) < ends, draws.random(games) < ends
        replay.add(stacks[:, -1], first, actions, rewards, terminal, over)
        for game in range(games):
            naive.add(game, stacks[game].copy(), actions[game], rewards[game], terminal[game], over[game])
        first, over = over, ended & ~over
    return replay, naive


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), games=st.integers(1, 3), n_step=st.integers(1, 4), steps=st.integers(12, 90),
       ends=st.sampled_from([0.0, 0.1, 0.4]))  # fmt: skip
def test_samples_are_what_a_naive_buffer_gives(seed, games, n_step, steps, ends):
    slots = 30
    replay, naive = filled(np.random.default_rng(seed), games, slots, steps, n_step, ends)
    batch = replay.sample(400, np.random.default_rng(seed + 1))
    oldest = max(0, steps - slots)
    expected = {
        (game, time) for game in range(games) for time in range(oldest + (3 if oldest else 0), steps - n_step)
        if not naive.past[game][time][4]
    }  # fmt: skip
    seen = set()
    for row in range(400):
        frame = batch.stacks[row, -1].tolist()
        game, time = frame[0][0] - 1, frame[1][0] * 256 + frame[1][1]
        seen.add((game, time))
        stack, action, total, discount, next_stack = naive.transition(game, time, 0.5, n_step)
        assert np.array_equal(batch.stacks[row], stack)
        assert batch.actions[row] == action
        assert batch.returns[row] == total
        assert batch.discounts[row] == discount
        assert discount == 0 or np.array_equal(batch.next_stacks[row], next_stack)
    assert seen <= expected
    if len(expected) <= 20:  # each is missed with chance (1 - 1/20)^400 < 2e-9
        assert seen == expected


def test_each_stored_transition_is_equally_likely():
    replay, _ = filled(np.random.default_rng(0), 2, 30, 50, 1, 0.2)
    batch = replay.sample(60_000, np.random.default_rng(1))
    _, counts = np.unique(batch.stacks[:, -1].reshape(60_000, -1).numpy(), axis=0, return_counts=True)
    expected = 60_000 / len(counts)
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((20, 4, (2, 2), 0.9, 1), "`capacity` must be >= 28"), ((100, 1, (2, 2), 0.9, 0), "`n_step` must be >= 1")],
)
def test_a_buffer_that_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Replay(*arguments)


def test_sampling_from_too_few_slots_is_refused():
    replay, _ = filled(np.random.default_rng(0), 1, 30, 3, 2, 0.0)
    with pytest.raises(ValueError, match="holds 3 slots, too few"):
        replay.sample(1, np.random.default_rng(0))


# The network


def test_bytes_and_images_give_the_same_values():
    network = new_network(6, seed=0)
    stacks = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network.of_bytes(stacks), network(stacks / 255), atol=2e-6, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            low = network.of_bytes(stacks)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, network(stacks / 255), atol=4e-3, rtol=0)


def test_the_network_is_appendix_a():
    shapes = {name: tuple(t.shape) for name, t in QNetwork(18).state_dict().items() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (32, 4, 8, 8), "conv2.weight": (64, 32, 4, 4), "conv3.weight": (64, 64, 3, 3),
        "hidden.weight": (512, 3136), "head.weight": (18, 512),
    }  # fmt: skip


def test_first_weights_depend_on_the_seed_alone():
    torch.rand(3)
    same, again, other = new_network(4, 5), new_network(4, 5), new_network(4, 6)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), again.parameters(), strict=True))
    assert not torch.equal(same.head.weight, other.head.weight)
    assert same.conv1.weight.abs().max() <= 1 / 16  # 1/√(4·8·8)


# The loop


def test_double_dqn_solves_the_toy():
    assert np.mean(caught(CatchNetwork())) < 0
    _, history = trained()
    best = LIMIT // 5  # a ball lands every five steps
    assert np.mean(history[-1].evaluation) >= 0.9 * best
    assert [record.step for record in history] == [2_000, 4_000, 6_000]
    assert history[-1].score > history[0].score
    assert history[-1].epsilon == 0.05


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize(("update_every", "steps"), [(8, [400, 408, 416]), (2, [400, 402, 404, 406, 408])])
def test_updates_come_as_often_as_the_recipe_says(tmp_path, monkeypatch, update_every, steps):
    """Four games side by side: an update every other time, or two each time, on other samples."""
    rates, copies, samples = [], [], []
    learn, copy, sample = Learner.update, Learner.copy_to_target, Replay.sample
    recipe = replace(SHORT, update_every=update_every, lr_end=0.0)
    monkeypatch.setattr(Learner, "update", lambda self, batch, lr: rates.append(lr) or learn(self, batch, lr))
    monkeypatch.setattr(Learner, "copy_to_target", lambda self: copies.append(len(rates)) or copy(self))
    monkeypatch.setattr(Replay, "sample", lambda self, *given: samples.append(sample(self, *given)) or samples[-1])
    train_agent(recipe, Catch(4), CatchNetwork(), tmp_path)
    assert len(rates) == (recipe.steps - recipe.warmup) / update_every
    assert rates[: len(steps)] == [recipe.rate(step) for step in steps]
    assert copies == list(range(1, len(rates), recipe.target_every // update_every))
    assert not torch.equal(samples[0].stacks, samples[1].stacks)


def test_the_same_seed_is_the_same_run(tmp_path):
    runs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        network = CatchNetwork()
        train_agent(SHORT, Catch(4), network, tmp_path / name, seed)
        runs.append(weights(network))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path):
    class Stop(Progress):
        def on_step(self, step, numbers):
            if step == 1_000:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_agent(SHORT, Catch(4), CatchNetwork(), tmp_path, progress=Stop())
    _, stored = RunFolder(tmp_path, request_of(SHORT, "", 0), AgentRecord).open()
    assert [record.step for record in stored] == [400, 800]
    network = CatchNetwork()
    history = train_agent(SHORT, Catch(4), network, tmp_path)
    assert history[:2] == stored
    assert [record.step for record in history] == [400, 800, 1_200]
    lines = (tmp_path / HISTORY).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [400, 800, 1_200]
    finished = weights(network)
    again = CatchNetwork()
    assert train_agent(SHORT, Catch(4), again, tmp_path) == history
    assert torch.equal(weights(again), finished)


def test_the_weights_that_scored_most_are_kept_if_asked_for(tmp_path):
    points = {400: [1.0, 2.0], 800: [5.0, 0.0], 1_200: [3.0, 1.0]}
    seen = {}

    def score(network, step):
        seen[step] = weights(network)
        return points[step]

    recipe = replace(SHORT, score_every=400, keep_best=True)
    network = CatchNetwork()
    train_agent(replace(recipe, steps=800), Catch(4), network, tmp_path, score=score)
    assert torch.equal(weights(network), seen[800])
    again = CatchNetwork()
    history = train_agent(recipe, Catch(4), again, tmp_path, score=score)
    assert torch.equal(weights(again), seen[800])
    assert not torch.equal(seen[1_200], seen[800])
    assert best_record(history).step == 800
    last = CatchNetwork()
    train_agent(replace(recipe, keep_best=False), Catch(4), last, tmp_path / "last", score=score)
    assert torch.equal(weights(last), seen[1_200])


def test_a_run_that_is_done_or_small_goes_on_without_waiting_for_ever(tmp_path):
    recipe = replace(SHORT, steps=800)
    train_agent(recipe, Catch(4), CatchNetwork(), tmp_path)
    idle = Catch(4)
    idle.send = None  # nothing is left to learn, so that nothing is played
    assert len(train_agent(recipe, idle, CatchNetwork(), tmp_path)) == 2
    odd = replace(SHORT, steps=800, replay=SHORT.replay + 1)  # no multiple of the games
    train_agent(odd, Catch(4), CatchNetwork(), tmp_path / "odd")
    assert train_agent(replace(odd, steps=1_200), Catch(4), CatchNetwork(), tmp_path / "odd")[-1].step == 1_200


def test_a_fused_optimiser_counts_beside_its_parameters():
    """As on a GPU, where Adam's count of steps must lie; PyTorch's `meta` device stands for it."""
    learner = Learner(CatchNetwork(), SHORT)
    learner.optimizer.param_groups[0]["fused"] = True
    there = torch.zeros(3, device="meta")
    assert learner._like(torch.tensor(5.0), there).device.type == "meta"
    learner.optimizer.param_groups[0]["fused"] = None
    assert learner._like(torch.tensor(5.0), there).device.type == "cpu"


def test_weights_targets_and_optimiser_come_back_as_they_were(tmp_path):
    recipe = replace(SHORT, steps=800)
    network = CatchNetwork()
    train_agent(recipe, Catch(4), network, tmp_path)
    tensors, _ = RunFolder(tmp_path, request_of(recipe, "", 0), AgentRecord).open()
    other = Learner(CatchNetwork(seed=9), recipe)
    other.restore(tensors)
    restored = other.tensors()
    assert restored.keys() == tensors.keys()
    assert {name.split(".")[0] for name in tensors} == {"network", "target", "optimizer"}
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())


def test_a_run_may_be_ended_elsewhere_than_it_was_begun_for(tmp_path):
    begun = train_agent(replace(SHORT, steps=400), Catch(4), CatchNetwork(), tmp_path)
    longer = train_agent(replace(SHORT, steps=800), Catch(4), CatchNetwork(), tmp_path)
    assert [record.step for record in longer] == [400, 800]
    assert longer[:1] == begun
    assert train_agent(replace(SHORT, steps=400), Catch(4), CatchNetwork(), tmp_path) == longer


def test_another_runs_checkpoint_is_refused_and_kept(tmp_path):
    recipe = replace(SHORT, steps=400)
    train_agent(recipe, Catch(4), CatchNetwork(), tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    for changed, seed, task in ((replace(recipe, lr=1.0), 0, ""), (recipe, 1, ""), (recipe, 0, "pong")):
        with pytest.raises(ValueError, match="belongs to another run"):
            train_agent(changed, Catch(4), CatchNetwork(), tmp_path, seed, task=task)
    assert (tmp_path / CHECKPOINT).read_bytes() == content


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    network = CatchNetwork()
    with torch.no_grad():
        network.layers[3].bias.fill_(torch.nan)
    with pytest.raises(Diverged, match="at step 400: the loss is nan"):
        train_agent(SHORT, Catch(4), network, tmp_path)


def test_rewards_are_clipped_for_learning_and_not_for_scores(tmp_path, monkeypatch):
    stored = []
    add = Replay.add

    def note(self, frames, first, actions, rewards, terminal, last):
        stored.append(rewards.copy())
        add(self, frames, first, actions, rewards, terminal, last)

    class Rich(Catch):
        def receive(self):
            step = super().receive()
            return replace(step, rewards=10 * step.rewards)

    monkeypatch.setattr(Replay, "add", note)
    history = train_agent(replace(SHORT, steps=400), Rich(4), CatchNetwork(), tmp_path / "clipped")
    assert set(np.concatenate(stored)) == {-1.0, 0.0, 1.0}
    assert history[0].score < -10
    stored.clear()
    train_agent(replace(SHORT, steps=400, reward_scale=40), Rich(4), CatchNetwork(), tmp_path / "scaled")
    assert set(np.concatenate(stored)) == {-0.25, 0.0, 0.25}


def test_a_lost_life_is_terminal_but_the_game_goes_on(tmp_path, monkeypatch):
    flags = []
    add = Replay.add

    def note(self, frames, first, actions, rewards, terminal, last):
        flags.append((rewards.copy(), terminal.copy(), first.copy(), last.copy()))
        add(self, frames, first, actions, rewards, terminal, last)

    monkeypatch.setattr(Replay, "add", note)
    train_agent(replace(SHORT, steps=400), Catch(4), CatchNetwork(), tmp_path)
    rewards, terminal, first, last = (np.stack(column) for column in zip(*flags, strict=True))
    assert np.array_equal(terminal, rewards == -1)  # a missed ball costs a life
    assert np.array_equal(first[1:], last[:-1])  # a game begins after another's last observation
    assert 0 < last.sum() < terminal.sum() / 2


# Recipes


def test_the_papers_recipe_is_appendix_a():
    paper = find_recipe("paper")
    assert (paper.batch, paper.lr, paper.gamma, paper.target_every, paper.update_every) == (32, 2.5e-4, 0.99, 10_000, 4)
    assert (paper.replay, paper.steps, paper.games, paper.n_step, paper.clip) == (10**6, 10**8, 1, 1, None)
    assert paper.optimizer == RMSProp(decay=0.95)
    assert [paper.epsilon(step) for step in (0, 500_000, 10**6, 10**7)] == [1.0, pytest.approx(0.55), 0.1, 0.1]
    assert paper.rate(0) == paper.rate(10**8) == 2.5e-4


@pytest.mark.parametrize(("preset", "transitions"), [("paper", 8), ("gpu", 8), ("small", 2)])
def test_recipes_learn_from_so_many_transitions_a_step(preset, transitions):
    recipe = find_recipe(preset)
    assert recipe.batch / recipe.update_every == transitions


@pytest.mark.parametrize("preset", RECIPES)
def test_every_recipes_optimiser_takes_a_step(preset):
    recipe = replace(find_recipe(preset), precision="float32")
    network = CatchNetwork()
    learner, before = Learner(network, recipe), weights(network)
    stacks = torch.ones((2, 4, 6, 5), dtype=torch.uint8)
    learner.update(Transitions(stacks, torch.tensor([0, 1]), torch.ones(2), torch.zeros(2), stacks), recipe.rate(0))
    assert not torch.equal(weights(network), before)


def test_recipes_that_cannot_work_are_refused():
    for wrong in (6, 3, 0):
        with pytest.raises(ValueError, match=f"`update_every` must be a multiple or a divisor of 4 games, got {wrong}"):
            replace(RECIPE, update_every=wrong)
    with pytest.raises(ValueError, match="`n_step` must be a positive multiple of 1, got 0"):
        replace(RECIPE, n_step=0)
    with pytest.raises(ValueError, match="`preset` must be one of paper, small, gpu, smoke, got 'big'"):
        find_recipe("big")
    for scale in (0, math.nan, math.inf):
        with pytest.raises(ValueError, match="`reward_scale` must be > 0 and finite, got"):
            replace(RECIPE, reward_scale=scale)
    with pytest.raises(ValueError, match="`n_step` must be at most"):
        replace(RECIPE, n_step=2**40)


# What is told and drawn of a run


RECORDS = [
    AgentRecord(400, 1.0, 400.0, 0.5, 1e-3, None, 0, None),
    AgentRecord(800, 1.0, 400.0, 0.1, 1e-3, 0.25, 3, 12.0, (10.0, 20.0)),
]


def test_the_plot_shows_each_evaluated_game_and_the_means(tmp_path):
    save_plot(history_chart(RECORDS, "catch"), tmp_path)
    drawn = (tmp_path / "history.svg").read_text()
    assert "agent steps" in drawn
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    dots, lines = history_chart(RECORDS).to_dict()["layer"]
    values = [sorted(row["y"] for row in layer["data"]["values"]) for layer in (dots, lines)]
    assert values == [[10.0, 20.0], [12.0, 15.0]]
    with pytest.raises(ValueError, match="`history` must hold a record with a game that ended"):
        history_chart(RECORDS[:1])

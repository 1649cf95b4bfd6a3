"""Episodes: what an agent sees and does, defended or not, under an adversary or not."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from catch import HEIGHT, LIMIT, WIDTH, Catch, CatchNetwork, trained

from saplab.attacks import FGSM, MonteCarlo, RandomNoise
from saplab.defenses import SAP, GaussianNoise, RandomNoisyWeights, defend
from saplab.defenses.drawing import drawing
from saplab.rl import play as module
from saplab.rl.adversary import Adversary, NewestFrame
from saplab.rl.play import STEPS, Rules, play
from saplab.rl.player import Player, mean_values, step_of
from saplab.rng.streams import pass_streams, stream_key

RULES = Rules("catch", epsilon=0.2)
NUMBERS = torch.tensor([3, 7, STEPS])


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """Play the toy instead of Atari games."""
    monkeypatch.setattr(module, "Games", lambda game, count, sticky, max_frames: Catch(count))


def stacks(count=3, seed=0):
    return torch.rand((count, 4, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(seed))


@dataclass
class Log:
    """Keeps every moment."""

    moments: list = field(default_factory=list)

    def __call__(self, moment):
        self.moments.append(moment)


# Episodes


def test_an_episode_depends_on_its_seed_and_number_alone():
    player = Player(CatchNetwork())
    together, alone = play(player, RULES, range(6), 1), play(player, RULES, [2, 4], 1)
    assert [episode.number for episode in together] == list(range(6))
    assert alone == [together[2], together[4]]
    assert play(player, RULES, range(6), 2) != together
    assert len({episode.score for episode in together}) > 1


def test_games_of_other_numbers_begin_otherwise():
    log = Log()
    play(Player(CatchNetwork()), RULES, range(8), 1, watch=log)
    assert len(torch.unique(log.moments[0].stacks, dim=0)) > 1


@dataclass(frozen=True)
class Numbered(Player):
    """A player that keeps the numbers of its observations."""

    seen: list = field(default_factory=list)

    def values(self, stacks, numbers):
        self.seen.append(numbers.tolist())
        return super().values(stacks, numbers)


def test_observations_are_numbered_by_game_and_step():
    player, log = Numbered(CatchNetwork()), Log()
    play(player, RULES, [2, 5], 1, watch=log)
    steps = enumerate(moment.episodes for moment in log.moments)
    assert player.seen == [[number * STEPS + step for number in going] for step, going in steps]
    assert len(player.seen[0]) == 2


def test_a_defended_and_attacked_episode_does_too():
    sap = defend(CatchNetwork(), SAP(100))
    player = Player(sap, passes=3)
    adversary = Adversary(sap, FGSM(MonteCarlo(2)), 0.1, samples=2)
    together = play(player, RULES, range(4), 1, adversary)
    assert play(player, RULES, [1, 3], 1, adversary) == [together[1], together[3]]


def test_a_score_is_the_sum_of_the_rewards_of_one_game():
    log = Log()
    (episode,) = play(Player(CatchNetwork()), RULES, [0], 1, watch=log)
    assert episode.steps == len(log.moments)
    landed = np.diff([*(moment.scores[0] for moment in log.moments), episode.score])
    assert set(landed) <= {-1.0, 0.0, 1.0}
    assert (landed == -1).sum() == 3  # three lives
    assert episode.score == landed.sum()


def test_actions_are_greedy_but_for_epsilon():
    log = Log()
    play(Player(CatchNetwork()), RULES, range(40), 1, watch=log)
    other = np.concatenate([m.actions != m.values.argmax(1).numpy() for m in log.moments])
    share = RULES.epsilon * 2 / 3
    assert abs(other.mean() - share) < 4 * np.sqrt(share * (1 - share) / len(other))
    log.moments.clear()
    play(Player(CatchNetwork()), replace(RULES, epsilon=0.0), range(4), 1, watch=log)
    assert all(np.array_equal(m.actions, m.values.argmax(1).numpy()) for m in log.moments)


@pytest.mark.parametrize("episodes", [[], [2, 1], [1, 1], [-1], range(513)])
def test_episodes_that_cannot_be_played_are_refused(episodes):
    with pytest.raises(ValueError, match="`episodes` must be"):
        play(Player(CatchNetwork()), RULES, episodes)


@pytest.mark.parametrize("wrong", [{"epsilon": 1.5}, {"epsilon": -0.1}, {"max_frames": 0}, {"max_frames": 200_000}])
def test_rules_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be within"):
        Rules("assault", **wrong)


# The player


@pytest.mark.parametrize("defense", [SAP(60), RandomNoisyWeights(0.1)])  # passes that share a batch, and that cannot
def test_a_player_acts_on_the_mean_of_the_values_over_passes(defense):
    defended = defend(CatchNetwork(), defense)
    images, key, first = stacks(), stream_key(5), 4 * step_of(defended, NUMBERS)
    with torch.no_grad():
        singles = []
        for pass_ in range(first, first + 4):
            with drawing(pass_streams(key, pass_, NUMBERS)):
                singles.append(defended(images))
    assert not torch.equal(singles[0], singles[1])
    torch.testing.assert_close(Player(defended, 4, seed=5).values(images, NUMBERS), torch.stack(singles).mean(0))


def test_an_agent_whose_values_are_no_numbers_does_not_play():
    """The largest of them would be the first that is none."""
    broken = defend(CatchNetwork(), GaussianNoise(1e308))
    with pytest.raises(ValueError, match="finite logits, got NaN or infinity"):
        play(Player(broken, passes=2), RULES, range(2), 1)


def test_a_network_without_randomness_is_run_once():
    network = CatchNetwork()
    runs = []
    network.register_forward_hook(lambda *_: runs.append(1))
    Player(network, passes=50).values(stacks(), NUMBERS)
    assert len(runs) == 1
    with pytest.raises(ValueError, match="`passes` must be >= 1, got 0"):
        Player(network, passes=0).values(stacks(), NUMBERS)


# The adversary


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("attack", [FGSM(MonteCarlo(2)), RandomNoise()])
def test_what_the_player_sees_stays_in_the_ball_and_the_cube(attack, newest):
    sap, log, eps = defend(CatchNetwork(), SAP(100)), Log(), 8 / 255
    play(Player(sap), RULES, range(3), 1, Adversary(sap, attack, eps, newest=newest), log)
    changed = [moment.seen - moment.stacks for moment in log.moments]
    assert all(part.abs().max() <= eps + 1e-6 for part in changed)
    assert all(moment.seen.min() >= 0 and moment.seen.max() <= 1 for moment in log.moments)
    assert all(part[:, -1].abs().max() > eps / 2 for part in changed)


def test_of_the_newest_frame_alone_the_older_ones_stay_as_they_were_seen():
    log = Log()
    network = CatchNetwork()
    play(Player(network), RULES, [0], 1, Adversary(network, FGSM(), 0.1, newest=True), log)
    assert len(log.moments) > 10
    for before, after in zip(log.moments, log.moments[1:], strict=False):
        assert torch.equal(after.seen[:, :-1], before.seen[:, 1:])
    assert not torch.equal(log.moments[9].seen[:, 0], log.moments[9].stacks[:, 0])


def test_of_the_whole_stack_every_frame_is_changed_anew():
    log = Log()
    network = CatchNetwork()
    play(Player(network), RULES, [0], 1, Adversary(network, FGSM(), 0.1), log)
    moment = log.moments[9]
    assert all((moment.seen - moment.stacks)[0, frame].abs().max() > 0.09 for frame in range(4))


def test_the_newest_frames_gradient_is_the_stacks():
    network, images = CatchNetwork(), stacks()
    whole, newest = (
        Adversary(network, FGSM(), 0.1, newest=only).perturb(images, NUMBERS) for only in (False, True)
    )  # fmt: skip
    assert torch.equal(newest[:, -1], whole[:, -1])
    assert torch.equal(newest[:, :-1], images[:, :-1])


def test_rows_of_the_newest_frame_find_their_older_ones():
    network, images = CatchNetwork(), stacks()
    partial = NewestFrame(network, images[:, :-1], NUMBERS)
    order = torch.tensor([2, 0, 0, 1])
    with drawing(pass_streams(0, 0, NUMBERS[order])):
        assert torch.equal(partial(images[order, -1:]), network(images[order]))
    with pytest.raises(ValueError, match="only run inside an attack"):
        partial(images[:, -1:])


def test_an_attack_drives_the_greedy_action_away():
    network, images = CatchNetwork(), stacks(200)
    numbers = torch.arange(200)
    seen = Adversary(network, FGSM(), 0.2).perturb(images, numbers)
    with torch.no_grad():
        before, after = network(images), network(seen)
    greedy = before.argmax(1, keepdim=True)
    assert (after.softmax(1).gather(1, greedy) < before.softmax(1).gather(1, greedy)).all()
    noisy = Adversary(network, RandomNoise(), 0.2, samples=0).perturb(images, numbers)
    with torch.no_grad():
        kept = (network(noisy).argmax(1) == greedy[:, 0]).float().mean()
    assert (after.argmax(1) == greedy[:, 0]).float().mean() < kept - 0.2


def test_an_agent_of_another_game_is_refused(monkeypatch):
    monkeypatch.setattr(Catch, "actions", 4)
    with pytest.raises(ValueError, match="the agent has 3 actions, but catch has 4"):
        play(Player(CatchNetwork()), RULES, [0], 1)


def mean_points(player, adversary=None):
    rules = replace(RULES, epsilon=0.0)
    return np.mean([episode.score for episode in play(player, rules, range(12), 1, adversary)])


def test_an_attack_lowers_the_score_of_a_trained_agent_and_noise_does_not():
    network, _ = trained()
    player, eps = Player(network), 30 / 255
    assert mean_points(player) >= 0.9 * LIMIT // 5
    assert mean_points(player, Adversary(network, FGSM(), eps)) < 0
    assert mean_points(player, Adversary(network, RandomNoise(), eps, samples=0)) > 9


def test_the_adversary_does_not_know_the_players_draws(monkeypatch):
    keys = []

    def note(network, images, passes, key, numbers):
        keys.append(key)
        return mean_values(network, images, passes, key, numbers)

    monkeypatch.setattr("saplab.rl.adversary.mean_values", note)
    sap = defend(CatchNetwork(), SAP(100))
    Adversary(sap, FGSM(), 0.1, seed=4).perturb(stacks(), NUMBERS)
    assert keys == [stream_key(4, "attack")]
    assert keys[0] != stream_key(4)


def test_noise_runs_no_network():
    network = CatchNetwork()
    network.register_forward_hook(lambda *_: pytest.fail("a network was run"))
    Adversary(network, RandomNoise(), 0.1, samples=0).perturb(stacks(), NUMBERS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("attack", [FGSM(MonteCarlo(2)), RandomNoise()])
def test_agents_play_on_a_gpu(attack, newest):
    network, log = defend(CatchNetwork().cuda(), SAP(100)), Log()
    adversary = Adversary(network, attack, 0.1, samples=0 if isinstance(attack, RandomNoise) else 2, newest=newest)
    player = Player(network, passes=2)
    assert len(play(player, RULES, range(3), 1, adversary, log)) == 3
    assert {tensor.device.type for moment in log.moments for tensor in (moment.seen, moment.values)} == {"cuda"}

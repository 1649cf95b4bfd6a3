"""The games themselves, as ale-py plays them, and what a person reads without it."""

import importlib.util
import sys
from itertools import pairwise

import numpy as np
import pytest

from saplab.rl import atari
from saplab.rl.atari import PAPER_GAMES, Games, action_names, rom_name

MISSING = [name for name in ("ale_py", "gymnasium") if importlib.util.find_spec(name) is None]
needs_ale = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra rl: {', '.join(MISSING)} is not installed")


def played(games, seeds, steps, policy=lambda time: 0):
    """Give every step of games whose action depends on the time alone."""
    found = [games.reset(seeds)]
    found += [games.step(np.full(games.count, policy(time))) for time in range(steps)]
    return found


@needs_ale
def test_an_observation_is_the_last_four_frames():
    steps = played(Games("Assault", 2), [1, 2], 6)
    first = steps[0].stacks
    assert first.shape == (2, 4, 84, 84)
    assert first.dtype == np.uint8
    assert not first[:, :3].any()
    assert first[:, 3].any()
    for before, after in pairwise(steps):
        assert np.array_equal(after.stacks[:, :3], before.stacks[:, 1:])


@needs_ale
def test_a_lost_life_goes_on_and_a_lost_game_begins_anew():
    steps = played(Games("Assault", 1), [3], 900, lambda time: time % 7)
    lives = np.array([step.lives[0] for step in steps])
    over = np.array([step.over[0] for step in steps])
    lost = np.flatnonzero(np.diff(lives) < 0) + 1
    assert lives[0] == 4
    assert over.any()
    assert (~over[lost]).sum() >= 3
    assert all(steps[i].stacks[0, 0].any() for i in lost if not over[i])  # the stack goes on over a lost life
    end = int(np.flatnonzero(over)[0])
    assert lives[end] == 0
    assert not steps[end + 1].stacks[0, :3].any()
    assert (steps[end + 1].rewards[0], lives[end + 1]) == (0, 4)


@needs_ale
def test_rewards_are_points_as_the_game_counts_them():
    points = np.array([step.rewards[0] for step in played(Games("Assault", 1), [0], 300, lambda time: time % 7)])
    assert points.max() == 21  # what the first enemies pay
    assert set(points) <= {0.0, 21.0, 42.0, 63.0}


@needs_ale
def test_a_seed_decides_a_game_whoever_else_is_played():
    together = played(Games("Asterix", 3), [5, 6, 7], 60, lambda time: time % 9)
    alone = played(Games("Asterix", 1), [6], 60, lambda time: time % 9)
    assert all(np.array_equal(a.stacks[1], b.stacks[0]) for a, b in zip(together, alone, strict=True))
    assert not np.array_equal(together[60].stacks[0], together[60].stacks[1])


@needs_ale
def test_sticky_actions_change_a_game():
    plain, sticky = (played(Games("Assault", 1, sticky), [5], 60, lambda time: time % 7) for sticky in (0.0, 0.5))
    assert any(not np.array_equal(a.stacks, b.stacks) for a, b in zip(plain, sticky, strict=True))


@needs_ale
def test_a_game_is_truncated_at_the_limit_of_frames():
    steps = played(Games("Bowling", 1, max_frames=40), [5], 10)
    assert [bool(step.truncated[0]) for step in steps] == [False] * 10 + [True]
    assert not any(step.terminated[0] for step in steps)


@needs_ale
def test_the_papers_games_ship_and_have_names_for_their_actions():
    assert [rom_name(game) for game in PAPER_GAMES] == [
        "assault", "asterix", "bank_heist", "battle_zone", "beam_rider", "bowling"
    ]  # fmt: skip
    assert rom_name("bank_heist") == "bank_heist"
    assert action_names("Bowling") == ("NOOP", "FIRE", "UP", "DOWN", "UPFIRE", "DOWNFIRE")
    assert Games("Bowling", 1).actions == 6


@needs_ale
def test_an_unknown_game_is_refused_with_advice():
    with pytest.raises(ValueError, match=r"'Asault' is none of the \d+ games .*did you mean 'assault'"):
        Games("Asault", 1)
    with pytest.raises(ValueError, match=r"`sticky` must be within \[0, 1\), got 1"):
        Games("Assault", 1, sticky=1)


def test_without_ale_py_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py.vector_env", None)
    with pytest.raises(ValueError, match=r"need ale-py and gymnasium .* pip install 'saplab\[rl\]'"):
        atari.rom_name("Assault")

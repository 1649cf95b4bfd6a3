"""What is shown of an agent: its card, and a clip of a game."""

import numpy as np
import pytest
import torch

from saplab.rl.agents import Facts
from saplab.rl.card import write_card
from saplab.rl.play import Moment, Rules
from saplab.rl.recipes import find_recipe
from saplab.rl.records import AgentRecord
from saplab.rl.video import Clip


def test_a_card_says_what_was_measured():
    facts = Facts("bowling", "small", 1_000, 0, "0" * 64, (30.0, 40.0, 50.0), (20.0, 25.0, 30.0))
    history = [AgentRecord(500, 2.0, 250.0, 0.5, 1e-4, 0.1, 3, 25.0), AgentRecord(1_000, 4.0, 125.0, 0.1, 1e-5, 0.1, 0,
               None, (30.0, 32.0))]  # fmt: skip
    rules = Rules("bowling", sticky=0.25)
    card = write_card(facts, find_recipe("small"), history, rules, "saplab train-agent Bowling", "a machine")
    for text in ("| this agent | 40.0 ±24.8 | 3 |", "| random play | 25.0 ±12.4 | 3 |", "68.1", "1,000 agent steps",
                 "| 1,000 | 0.10 | – | 0 | 31.0 ±12.7 |", "`saplab train-agent Bowling`", "- batch: 32",
                 "sticky actions 0.25", "the weights after 1,000 steps, which scored most"):  # fmt: skip
        assert text in card
    last = write_card(facts, find_recipe("paper"), history, rules, "saplab train-agent Bowling", "a machine")
    assert "the weights after the last step; no evaluation decided anything" in last


def moment(episodes=(0,), grey=0.5):
    count = len(episodes)
    shown = torch.full((count, 4, 84, 84), grey)
    values = torch.tensor([[0.0, 1.0, 3.0]]).repeat(count, 1)
    return Moment(episodes, shown, shown + 4 / 255, values, np.full(count, 2), (7.0,) * count)


def test_a_clip_shows_the_frame_the_perturbation_and_the_action(tmp_path):
    image = pytest.importorskip("PIL.Image")
    clip = Clip("bowling", ("NOOP", "FIRE", "UP"), lam=4, episode=3, steps=2)
    for k, episodes in enumerate(((0, 3), (3,), (3,))):
        clip.watch(moment(episodes, 0.5 + 0.25 * k))  # frames that differ, as equal ones may be merged
    clip.save(tmp_path / "clip.gif")
    with image.open(tmp_path / "clip.gif") as gif:
        assert gif.n_frames == 2  # no more than `steps`
    frame = clip.frames[0].convert("RGB")
    assert len(clip.frames) == 2
    seen, added = frame.getpixel((100, 100)), frame.getpixel((100 + 252 + 10, 100))
    assert seen == (132, 132, 132)  # 0.5 · 255 + 4
    assert added == (248, 248, 248)  # 128 + 4 · (120 / 4)
    with pytest.raises(ValueError, match=r"`video` must end in \.gif"):
        clip.save(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="episode 5 was not played"):
        Clip("bowling", ("NOOP",), 0, episode=5).save(tmp_path / "other.gif")

"""How far a computation is: a bar on a terminal, a line in a notebook, nothing in a pipe unless asked."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import saplab
from saplab.defenses.prediction import predict_with_votes
from saplab.evaluation import evaluate as module
from saplab.runs.cell import USUAL_STEPS
from saplab.system import progress
from saplab.system.progress import lines, note, show_of, shown, silent


class ZMQInteractiveShell:
    """What IPython's shell is called in a notebook."""


@pytest.fixture
def notebook(monkeypatch):
    """Every state of what a notebook shows, as it comes."""
    seen = []

    def display(data, raw, display_id=False):
        seen.append(data["text/plain"])
        return SimpleNamespace(update=lambda data, raw: seen.append(data["text/plain"]))

    ipython = SimpleNamespace(get_ipython=ZMQInteractiveShell, display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return seen


def test_lines_come_now_and_then_and_at_the_end(capsys):
    now = [0.0]
    with lines("images", 1000, clock=lambda: now[0]) as tick:
        for _ in range(10):
            now[0] += 2
            tick(100)
    assert capsys.readouterr().err.splitlines() == [
        "images: 1,000 to do",
        "images: 30 %, 6 s, about 14 s left",
        "images: 60 %, 12 s, about 8 s left",
        "images: 90 %, 18 s, about 2 s left",
        "images: 100 %, 20 s",
    ]


def test_a_notebook_needs_no_widgets(notebook, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_NOTEBOOK_SECONDS", 0.0)
    with shown("passes", 4) as tick:
        tick(1)
        tick(3)
    note("long")
    assert notebook[0] == "passes: 0 %"
    assert [line.split(",")[0] for line in notebook[1:]] == ["passes: 25 %", "passes: 100 %", "long"]
    assert capsys.readouterr() == ("", "")


def test_a_pipe_shows_what_is_asked_for_alone(capsys):
    with shown("passes", 4) as tick:
        tick(4)
    note("long")
    assert capsys.readouterr() == ("", "")
    assert (show_of(True), show_of(False), show_of("lines")) == (shown, silent, lines)
    with pytest.raises(ValueError, match="`progress` must be True, False or 'lines', got 'bar'"):
        show_of("bar")


def test_predict_counts_passes(capsys):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()).eval()
    images = torch.rand(5, 1, 2, 2)
    for model in (net, saplab.defend(net, saplab.SAP(200))):
        ticks = []
        predict_with_votes(model, images, 3, 0, batch_size=2, tick=ticks.append)
        assert sum(ticks) == 15
    assert len(ticks) == 9
    saplab.predict(model, images, passes=3, progress="lines")
    assert capsys.readouterr().err.startswith("passes: 15 to do\npasses: 100 %")
    saplab.predict(model, images, passes=3)
    assert capsys.readouterr().err == ""


def test_long_work_says_first_what_it_costs(monkeypatch, capsys):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()).eval()
    asked = {"attacks": "fgsm", "eps": 0.1, "passes": 2, "samples": 2}
    said = []

    @contextmanager
    def show(description, total):
        said.append(description)
        yield lambda n: None

    monkeypatch.setattr(module, "show_of", lambda progress: show)
    monkeypatch.setattr(module, "note", said.append)
    monkeypatch.setattr(module, "is_seen", lambda: True)
    images, labels = torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.long)
    saplab.evaluate(saplab.defend(net, saplab.SAP(200)), images, labels, **asked)
    assert said == ["network passes"]
    monkeypatch.setattr(module, "LONG", 0.0)
    saplab.evaluate(saplab.defend(net, saplab.SAP(200)), images, labels, **asked)
    assert said[2] == "network passes"
    # Five images: one and two gradients; two radii, predicted once and twice.
    assert said[1].startswith(
        "at most 45 forward and 15 backward passes of one image through the network; at most about 0"
    )
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "is_seen", lambda: False)  # nothing is timed that nobody would read
    monkeypatch.setattr(module, "budget_of", said.append)
    saplab.evaluate(saplab.defend(net, saplab.SAP(200)), images, labels, **asked)
    assert said[3:] == ["network passes"]


def test_a_game_of_unknown_length_is_never_done_before_it_ends():
    from saplab.attacks import FGSM, MonteCarlo
    from saplab.runs import GameCell, Network

    network = Network("agent:pong", "0" * 64)
    cell = GameCell(defender=network, adversary=network, attack=FGSM(MonteCarlo(3)), eps=(0.1,), start=0, stop=2,
                    passes=5, game="pong")  # fmt: skip
    assert cell.step_passes == 5 + 3 + 3 * 2 + 3
    states = ((0, 2), (1, 2), (USUAL_STEPS, 2), (10**6, 2), (10**6, 1))
    done = [cell.work_after(steps, going) for steps, going in states]
    assert done == sorted(set(done))
    assert cell.work_after(USUAL_STEPS, 2) == GameCell.work_of([cell]) // 2
    assert done[-1] < cell.work_after(10**6 + 1, 0) == GameCell.work_of([cell])

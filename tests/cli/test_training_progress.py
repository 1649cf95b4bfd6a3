"""What a user sees of a training run: lines, and on a terminal a bar below them."""

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from saplab.cli.training import watch
from saplab.cli.verbs.train_agent import _numbers
from saplab.rl.records import AgentRecord


@dataclass(frozen=True)
class Record:
    step: int
    loss: float


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched() -> Iterator[None]:
    """Report a run that goes on after its first of two records."""
    first, second = Record(5, 2.0), Record(10, 1.5)
    name = "step {0.step} of 10".format
    with watch("toy", lambda record: f"{name(record)}: loss {record.loss}", name) as progress:
        progress.on_start([first], 5, 10)
        for step in range(6, 11):
            progress.on_step(step, {"loss": 1.75})
            yield
        progress.on_record(second)


def test_elsewhere_than_on_a_terminal_a_record_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in watched():
        pass
    captured = capsys.readouterr()
    assert captured.err == "goes on after step 5 of 10\nstep 10 of 10: loss 1.5\n"
    assert captured.out == ""


def test_on_a_terminal_there_is_a_bar_below_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    for _ in watched():
        pass
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "goes on after step 5 of 10\n" in shown
    assert "step 10 of 10: loss 1.5\n" in shown
    assert re.search(r"toy ━+ loss 1\.75 +0:00:00\s*$", shown)


def test_an_agents_line_has_the_numbers_that_there_are() -> None:
    assert _numbers(AgentRecord(400, 2.0, 250.0, 0.5, 1e-3, None, 0, None)) == "250 steps/s, 2 s"
    whole = AgentRecord(800, 2.0, 250.0, 0.1, 1e-3, 0.25, 3, 12.0, (10.0, 20.0))
    assert _numbers(whole) == "loss 0.2500, 12.0 points in 3 games at ε 0.10, evaluation 15.0 ±63.5, 250 steps/s, 2 s"

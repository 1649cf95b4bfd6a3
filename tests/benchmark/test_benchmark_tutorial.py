"""docs/benchmark/own-entry.md as it stands: its file, its commands and its Python, in the smoke tier."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import saplab
from saplab.benchmark.board import read_cards
from saplab.cli import app
from saplab.cli.errors import guarded

PAGE = Path(__file__).parents[2] / "docs" / "benchmark" / "own-entry.md"
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
TINY = "return __import__('tiny').plain()"  # in the place of a network that takes minutes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind, name, text in BLOCKS:
        if kind == "python" and name:
            (tmp_path / name).write_text(text.replace('return saplab.load_model("preact-resnet20-dense")', TINY))
            assert TINY in (tmp_path / name).read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def test_the_page_runs(folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    commands = 0
    for k, (kind, name, text) in enumerate(BLOCKS):
        if kind == "python" and not name:
            exec(compile(text, f"{PAGE.name}, block {k}", "exec"), names)
        elif kind == "console":
            for line in text.splitlines():
                program, *words = shlex.split(line)
                assert program == "saplab"
                assert guarded(lambda words=words: app(words, prog_name="saplab", standalone_mode=False)) == 0, line
                commands += 1
    assert commands == 4
    (card,) = read_cards(folder / "runs" / "benchmark")
    assert card.network.defense == "coarse:16"
    assert card.command == (
        "saplab benchmark --model mine:net --defense 'mine:Coarse(levels=16)' --name coarse --tier smoke"
    )
    assert card.threats[0].sentence == saplab.load("runs/again/smoke/coarse/linf").verdict.sentence

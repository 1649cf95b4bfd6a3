"""docs/benchmark/own-entry.md as it stands: its file, its commands and its Python, in the smoke tier."""

from pathlib import Path

import pytest
from pages import Page

import saplab
from saplab.benchmark.board import read_cards

PAGE = Page("benchmark/own-entry.md")
TRAINED, TINY = 'return saplab.load_model("preact-resnet20-dense")', "return __import__('tiny').plain()"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TRAINED in PAGE.files["mine.py"]
    PAGE.files["mine.py"] = PAGE.files["mine.py"].replace(TRAINED, TINY)  # a network that takes minutes
    monkeypatch.syspath_prepend(Path(__file__).parent)
    with PAGE.unpacked(tmp_path):
        PAGE.run()
        (card,) = read_cards(tmp_path / "runs" / "benchmark")
        assert card.network.defense == "coarse:16"
        assert card.command == (
            "saplab benchmark --model mine:net --defense 'mine:Coarse(levels=16)' --name coarse --tier smoke"
        )
        assert card.threats[0].sentence == saplab.load("runs/again/check/smoke/coarse/linf").verdict.sentence

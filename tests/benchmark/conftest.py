"""One entry of one's own, run once through the command line, for all tests of the benchmark."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_entry import OWN

from saplab.benchmark.card import Card
from saplab.benchmark.run import CARD
from saplab.cli import app
from saplab.cli.errors import guarded


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of a user's, with a network of theirs, where Python works."""
    made = tmp_path_factory.mktemp("benchmark")
    text = (Path(__file__).parent / "tiny.py").read_text(encoding="utf-8")
    (made / "tiny.py").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.syspath_prepend(made)
        yield made


@pytest.fixture(scope="session")
def benchmark(folder: Path) -> Callable[..., int]:
    """Run ``saplab benchmark`` in the smoke tier, and return its exit code."""

    def run(*words: str, tier: str = "smoke") -> int:
        computing = () if "--leaderboard" in words else ("--threads", "1")
        every = ["benchmark", *words, "--tier", tier, *computing]
        return guarded(lambda: app(every, prog_name="saplab", standalone_mode=False))

    return run


@pytest.fixture(scope="session")
def mine(benchmark: Callable[..., int], folder: Path) -> Path:
    """Return the folder of an entry that was run."""
    assert benchmark(*OWN, "--out", "runs") == 0
    return folder / "runs" / "smoke" / "mine"


@pytest.fixture(scope="session")
def card(mine: Path) -> Card:
    return Card.from_json((mine / CARD).read_bytes())

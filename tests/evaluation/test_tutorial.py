"""docs/random-networks.md as it stands: its files, its Python, its commands and its study."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import Page

import saplab

PAGE = Page("random-networks.md")
BLOCKS, FILES = PAGE.blocks, PAGE.files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of a user's, with the files of the page, where Python works."""
    with PAGE.unpacked(tmp_path_factory.mktemp("tutorial")) as made:
        yield made


@pytest.fixture(scope="module")
def after(folder: Path) -> dict[str, Any]:
    """Return the names that the page leaves behind, after all blocks but those of extras have run in their order."""
    return PAGE.run()


def test_the_page_holds_what_it_promises() -> None:
    assert set(FILES) == {"noisy.py", "rounding.py", "random.toml"}
    assert all(len(FILES[name].splitlines()) <= 22 for name in ("noisy.py", "rounding.py"))
    words = " ".join(text for kind, _, text in BLOCKS if kind == "console")
    assert all(option in words for option in ("--model noisy:net", "--workers 2", "--batch-size", "--engine ray"))


def test_the_page_runs(after: dict[str, Any], folder: Path) -> None:
    """Its own assertions compare the numbers; these say that there were any."""
    for name in ("noisy", "other", "workers", "mine", "sum"):
        found = saplab.load(folder / "runs" / name)
        assert found.verdict.sentence
        assert {row["images"] for row in found.rows} == {16}
        assert (folder / "runs" / name / "report.html").stat().st_size > 10_000
    noted = [json.loads((folder / "runs" / name / "request.json").read_text())["notes"] for name in ("noisy", "study")]
    assert noted[0] == list(after["result"].request.notes or noted[0])
    assert "random by itself" in noted[0][0]
    assert noted[1] == [f"noisy:net: {noted[0][0]}"]
    assert "Noise and rounding leave about the same" in (folder / "runs" / "study" / "results.md").read_text()


def test_the_defence_of_the_page_is_not_flat(after: dict[str, Any]) -> None:
    """Without its surrogate the same defence has no gradient at all."""
    rounding = sys.modules["rounding"].Rounding
    bare = type("Bare", (rounding,), {"surrogate": saplab.Defense.surrogate})
    x = after["images"].clone().requires_grad_()
    saplab.defend(after["dense"], bare(levels=16))(x).logsumexp(1).sum().backward()
    assert (x.grad == 0).all()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra cluster)")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Ray's own pipes and files
def test_a_cluster_ends_with_the_same_bits(folder: Path) -> None:
    """Without the rest of the page, which a busy machine would need minutes for."""
    (first,) = (line for _, _, text in BLOCKS for line in text.splitlines() if line.endswith("--out runs/noisy"))
    PAGE.command(first)
    PAGE.run_extra("with the extra cluster")
    assert saplab.load(folder / "runs" / "ray").rows == saplab.load(folder / "runs" / "noisy").rows

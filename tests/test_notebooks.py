"""The notebooks of docs/notebooks run without a network, and what is stored in them is what running gives."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"[-+±]?\d[\d.,]*")  # kinds of processors round differently, which may move an image


def executed(path: Path, folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("run_notebooks", DOCS / "site" / "run_notebooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.executed(path, folder)


def words(text: str) -> str:
    """Return a text without its numbers and the spaces that they take."""
    return " ".join(NUMBER.sub("#", text).split())


def outputs(notebook: Any) -> list[list[tuple[str, ...]]]:
    """Return, for each cell of code, the kinds of its outputs and their words."""
    return [
        [
            (
                output.output_type,
                *sorted(output.get("data", {})),
                words(output.get("text") or output.data["text/plain"]),
            )
            for output in cell.outputs
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_there_are_two() -> None:
    assert NOTEBOOKS == ["your-own-defence.ipynb", "your-own-network.ipynb"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_and_gives_what_is_stored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing is there: a download would fail
    stored = nbformat.read(FOLDER / name, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(stored)
    fresh = executed(FOLDER / name, tmp_path)
    assert outputs(fresh) == outputs(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("<svg" in str(output.get("data")) for cell in code for output in cell.outputs) == 2
    assert "/root/" not in str(stored)

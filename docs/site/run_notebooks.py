"""Run the notebooks and store what they show: ``python docs/site/run_notebooks.py``."""

import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
_PROGRESS = re.compile(r"[a-z ]+: \d+ %|at most ")  # how far the work was, and what it cost here


def executed(path: Path, folder: Path) -> Any:
    """Return a notebook as it is after running in a folder, without the progress of its work."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(
        notebook, timeout=600, startup_timeout=600, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _PROGRESS.match(_text(output))]
    return notebook


def _text(output: Any) -> str:
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path, FOLDER), path)  # type: ignore[no-untyped-call]

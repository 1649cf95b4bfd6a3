"""A folder that is not a run's yet: results of an earlier version are put aside, other files are left alone."""

import re
from itertools import count
from pathlib import Path
from typing import Final

from saplab.runs.claim import LOCK
from saplab.system.files import is_temporary
from saplab.system.folder import inside

_ASIDE: Final = "earlier-version"
_REPORTS: Final = ("report.html", "results.md", "accuracy.*", "reliability.*", "convergence.*", "game.*", "table1.csv")
_RUN: Final = ("figures", "cells", "index.txt", "run.json", "failures.jsonl", "study.json")
_MARKS: Final = ("games", "table1.json", "request.json")  # tell that something is left to move, so they are the last


def check(root: Path) -> None:
    """Refuse a folder in which other files lie and no run of any version, before anything is written there."""
    ours = (LOCK, "request.json", f"{_ASIDE}*")
    if not root.is_dir() or not (any(any(root.glob(name)) for name in ours) or _holds_earlier_run(root)):
        _refuse_other_files(root)


def prepare(root: Path) -> str:
    """Make room for a run in the folder `root`, which holds none of this version; other files there are an error.

    Returns:
        A line for people about results of an earlier version, which are put aside; empty where there are none.
    """
    if _holds_earlier_run(root):
        _put_aside(root)
    if folders := [path.name for path in root.glob(f"{_ASIDE}*")]:
        return f"results of an earlier version of saplab are now in {root / max(folders)}; computing again"
    _refuse_other_files(root)
    return ""


def _holds_earlier_run(root: Path) -> bool:
    games = (path.stem for path in root.glob("games/*.json"))
    marks = ((root / name).is_file() for name in ("table1.json", "request.json"))
    return any(marks) or any(re.fullmatch("[0-9a-f]{16}", name) for name in games)


def _put_aside(root: Path) -> None:
    """Move a run file by file, so that a second call goes on where the first was killed."""
    found = [path for pattern in (*_REPORTS, *_RUN, *_MARKS) for path in root.glob(pattern)]
    names = (_ASIDE if k == 1 else f"{_ASIDE}-{k}" for k in count(1))
    aside = next(root / name for name in names if not any((root / name / path.name).exists() for path in found))
    inside(root, aside.name, folder=True).mkdir(exist_ok=True)
    for path in found:
        path.rename(aside / path.name)


def _refuse_other_files(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder; choose another --out")
    own = (root / "cells", root / LOCK)
    found = (path for path in (*root.glob("*"), *root.glob("cells/*")) if not is_temporary(path))
    files = (path for path in found if not (path / "request.json").is_file())  # a run of its own may lie inside
    if names := sorted(str(path.relative_to(root)) for path in files if path not in own):
        raise ValueError(f"{root} holds other files ({', '.join(names[:3])}); choose another --out")

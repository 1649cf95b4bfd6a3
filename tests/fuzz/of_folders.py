"""Run folders and studies from elsewhere: other values, links, pipes and damage are named, and lead nowhere."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthetic import MINE, fill, make_request

from fuzz.cases import Case, call, generator
from saplab.evaluation.rows import summarise
from saplab.paper.study import read_study
from saplab.runs import Store
from saplab.runs.progress import progress_of

_VALUES = (
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e308, 0.5, "", "x", "\x1b[31m", "../..", "a\nb", [], {}, [[]],
    [0], [5, 1], [0, 0], list(range(3000)), {"a": 1},
)  # fmt: skip
_WORDS = ("nan", "inf", "-1", "1e400", "true", "''", "'../../x'", "'a/b'", "[]", "{}", "[[1]]", "5", "'\\u0000'")


@generator
def received_runs(draw: random.Random, folder: Path) -> Case:
    """A whole run folder with another value in its request, or with something else in the place of a file."""
    store = fill(folder / "run", make_request(size=4))
    (outside := folder / "outside").write_text("mine")
    text = _with_another_value(draw, store.root) if draw.random() < 0.6 else _with_a_strange_file(draw, store, outside)

    def read() -> None:
        try:
            again = Store.read(store.root)
            progress_of(again)
            summarise(again)
        finally:
            assert outside.read_text() == "mine"

    return call(text, read)


@generator
def changed_studies(draw: random.Random, folder: Path) -> Case:
    """A study with a line that is another, twice there, or left out."""
    lines = MINE.strip().splitlines()
    at = draw.randrange(len(lines))
    name, equals, _ = lines[at].partition("=")
    changed = f"{name}= {draw.choice(_WORDS)}" if equals else draw.choice(("[[figure.x]]", "[figure]", "[[["))
    lines[at : at + 1] = draw.choice(([], [lines[at]] * 2, [changed], [changed]))
    (file := folder / "study.toml").write_text("\n".join(lines))
    return call(repr(lines[max(at - 1, 0) : at + 2]), lambda: read_study(file))


def _with_another_value(draw: random.Random, root: Path) -> str:
    """Change a value of the request, whose checksum is left out as an enemy would."""
    content = json.loads((root / "request.json").read_text())
    places = list(_places(content))
    holder, key = draw.choice(places)
    holder[key] = draw.choice(_VALUES)
    content["sha256"] = ""
    (root / "request.json").write_text(json.dumps(content))
    return f"{key!r} is {holder[key]!r:.60}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each part of a JSON value as what holds it and its key there."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _with_a_strange_file(draw: random.Random, store: Store, outside: Path) -> str:
    cell = draw.choice(store.request.cells)
    names = ("request.json", "index.txt", "run.json", "failures.jsonl", "study.json")
    path = draw.choice((store.path(cell), *(store.root / name for name in names)))
    kind = draw.choice(("link", "loop", "pipe", "folder", "damage"))
    if kind == "damage":
        content = bytearray(path.read_bytes()) if path.exists() else bytearray(b"{}")
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
        return f"{kind} of {path.name}"
    path.unlink(missing_ok=True)
    places = {"link": lambda: path.symlink_to(outside), "loop": lambda: path.symlink_to(path), "folder": path.mkdir}
    places.get(kind, lambda: os.mkfifo(path))()
    return f"{kind} for {path.name}"

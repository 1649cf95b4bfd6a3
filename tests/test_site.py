"""The site: every public name has its place in the reference, and every page has one in the navigation."""

import dataclasses
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from inspect import getmembers, isclass, isfunction
from pathlib import Path
from typing import Any, get_args, get_type_hints

from synthetic import make_cell

import saplab
from saplab.evaluation.rows import GameRow, Row, Summary
from saplab.metrics import Counts, Interval
from saplab.metrics.scores import Score
from saplab.system.errors import EvaluationError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SHOWN = re.compile(r"^::: saplab\.(\w+)$", re.MULTILINE)


def test_every_public_name_is_in_the_reference_once():
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")]
    shown = Counter(name for page in pages for name in SHOWN.findall(page))
    assert shown == Counter(name for name in saplab.__all__ if name != "__version__")


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    pages |= {f"notebooks/{path.stem}.md" for path in (DOCS / "notebooks").glob("*.ipynb")}  # docs/site/notebooks.py
    elsewhere = {page for page in pages if page.startswith("benchmark/cards/")}
    assert pages - listed - elsewhere == set()
    assert listed <= pages


def test_examples_are_written_where_the_site_looks_for_them():
    """Under another heading than Examples they would become a quotation without lines."""
    files = (ROOT / "src" / "saplab").rglob("*.py")
    assert not [path for path in files if re.search(r"^\s+Example:$", path.read_text(encoding="utf-8"), re.MULTILINE)]


STORAGE = "saplab.runs."  # cells and stores, which hold what results are made from


def classes_in(annotation: Any) -> Iterator[type]:
    """Yield saplab's own dataclasses in an annotation, but those of storage."""
    own = isclass(annotation) and annotation.__module__.startswith("saplab.")
    if own and dataclasses.is_dataclass(annotation) and not annotation.__module__.startswith(STORAGE):
        yield annotation
    for inner in get_args(annotation):
        yield from classes_in(inner)


def offered(kind: type) -> Iterator[Any]:
    """Yield the annotations of a class's public attributes, and of what its public properties and methods return."""
    yield from (hint for name, hint in get_type_hints(kind).items() if not name.startswith("_"))
    for name, member in getmembers(kind):
        found = getattr(member, "fget", None) or getattr(member, "func", member)
        if not name.startswith("_") and (isfunction(found) or isinstance(member, property | cached_property)):
            yield get_type_hints(found).get("return")


def reachable(kind: type) -> set[type]:
    found, waiting = {kind}, [kind]
    while waiting:
        new = {one for hint in offered(waiting.pop()) for one in classes_in(hint)} - found
        found |= new
        waiting += new
    return found


def test_everything_in_a_result_has_its_entry_with_every_attribute():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    kinds = reachable(saplab.Result)
    assert {Row, GameRow, Summary, Interval, Counts, Score} <= kinds
    for kind in (*kinds, EvaluationError):
        public = kind.__name__ in saplab.__all__
        assert (
            f"::: saplab.{kind.__name__}\n" in pages if public else f"::: {kind.__module__}.{kind.__name__}\n" in pages
        )
        told = re.findall(r"^    ([\w, ]+): ", inspect.cleandoc(kind.__doc__ or ""), re.MULTILINE)
        names = {name.strip() for line in told for name in line.split(",")}
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        assert {field.name for field in fields} <= names, kind


def test_every_key_of_a_row_is_explained():
    page = (DOCS / "reference" / "results.md").read_text(encoding="utf-8")
    half = Interval(0.5, 0.4, 0.6, 10)
    images = Row("a curve", make_cell(), 0.0, Counts(half, half, half, {}, 1)).record()
    games = GameRow("pong", "an agent", 0.0, Score(1.0, None, None, 1), False, None, None, 1.0, 0).record()
    assert not [key for key in (*images, *games) if f"`{key}`" not in page]

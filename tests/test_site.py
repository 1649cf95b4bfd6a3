"""The site: every public name has its place in the reference, and every page has one in the navigation."""

import re
from collections import Counter
from pathlib import Path

import saplab

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
    elsewhere = {page for page in pages if page.endswith("/results.md") or page.startswith("benchmark/cards/")}
    assert pages - listed - elsewhere == set()
    assert listed <= pages

"""A hook of MkDocs: the help of every command, as it is printed, in the place of a mark on a page."""

import os
import subprocess
import sys
from typing import Any

from typer.main import get_command

from saplab.cli import app

MARK = "<!-- help of every command -->"
WIDTH = "100"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help in, where the page has the mark."""
    return markdown.replace(MARK, helps()) if MARK in markdown else markdown


def helps() -> str:
    """Return the help of saplab and of each verb, as Markdown."""
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    return "\n\n".join(_section(words) for words in ((), *((name,) for name in verbs)))


def _section(words: tuple[str, ...]) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "saplab", *words, "--help"],
        env={**os.environ, "COLUMNS": WIDTH, "TERM": "dumb"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return f"## {' '.join(('saplab', *words))}\n\n```text\n{shown.stdout.strip()}\n```"

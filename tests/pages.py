"""Pages of the docs that run as tests: their files, their Python and their commands, in order."""

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from saplab.cli import app
from saplab.cli.errors import guarded

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Page:
    """A page's blocks (kind, title, text): a file's title is its name, a command's its extra; what runs has none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks: list[tuple[str, str, str]] = BLOCK.findall((DOCS / name).read_text(encoding="utf-8"))
        self.files = {name: text for kind, name, text in self.blocks if kind in ("python", "toml") and name}

    @contextmanager
    def unpacked(self, folder: Path) -> Iterator[Path]:
        """Write the page's files to a folder, and work there."""
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.syspath_prepend(folder)
            for name in self.files:
                patch.delitem(sys.modules, Path(name).stem, raising=False)
            try:
                yield folder
            finally:
                for name in self.files:
                    sys.modules.pop(Path(name).stem, None)

    def run(self) -> dict[str, Any]:
        """Run all blocks but those of extras; return the names that they leave behind."""
        names: dict[str, Any] = {"__name__": "page"}
        for k, (kind, name, text) in enumerate(self.blocks):
            if kind == "python" and not name:
                exec(compile(text, f"{self.name}, block {k}", "exec"), names)
            elif kind == "console" and not name:
                self.command(text)
        return names

    def run_extra(self, extra: str) -> None:
        """Run the commands that need an extra."""
        for kind, name, text in self.blocks:
            if (kind, name) == ("console", extra):
                self.command(text)

    @staticmethod
    def command(text: str) -> None:
        for line in text.splitlines():
            program, *words = shlex.split(line)
            assert program == "saplab"
            assert guarded(lambda words=words: app(words, prog_name="saplab", standalone_mode=False)) == 0, line

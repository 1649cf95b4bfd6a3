"""What of a folder of pictures is not read, and how that is said."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from saplab.system.words import counted


@dataclass
class LeftOut:
    """Counts of what is left out, or changed, while a folder is read; hidden files do not count.

    Attributes:
        loose: files beside the subfolders of the classes.
        suffixes: files in them by suffix, where that is no picture's.
        special: pipes, devices and links that lead nowhere.
        transparent: pictures that were laid on white.
    """

    loose: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    special: int = 0
    transparent: int = 0

    def folders(self, path: Path) -> Iterator[str]:
        """Yield the names of the subfolders."""
        for inner in path.iterdir():
            if inner.is_dir() and not inner.name.startswith("."):
                yield inner.name
            else:
                self.loose += not inner.name.startswith(".")

    def files(self, folder: Path, wanted: Collection[str]) -> Iterator[Path]:
        """Yield the files with a wanted suffix in a folder and in those inside it, each folder once.

        A link to a folder around it leads to other classes' pictures, and is left out.
        """
        around = {(status.st_dev, status.st_ino) for status in map(Path.stat, folder.resolve().parents)}
        seen = set(around)
        for place, inside, names in os.walk(folder, followlinks=True):
            status = Path(place).stat()
            if (status.st_dev, status.st_ino) in seen:
                self.special += (status.st_dev, status.st_ino) in around
                inside.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            for file in (Path(place) / name for name in names if not name.startswith(".")):
                suffix = file.suffix.lower()
                if not file.is_file():
                    self.special += 1
                elif suffix in wanted:
                    yield file
                else:
                    self.suffixes[suffix or "no suffix"] += 1

    def said(self, path: Path) -> str:
        """Return what was left out in words; "" for nothing."""
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in self.suffixes.most_common())
        parts = (
            f"{counted(self.suffixes.total(), 'file')} of another kind ({kinds})" if kinds else "",
            f"{counted(self.loose, 'file')} outside its subfolders" if self.loose else "",
            f"{self.special} that are no regular files" if self.special else "",
        )
        words = f"{path}: left out {', '.join(filter(None, parts))}" if any(parts) else ""
        clear = f"{counted(self.transparent, 'picture')} with transparent parts laid on white"
        return "; ".join(filter(None, (words, clear if self.transparent else "")))

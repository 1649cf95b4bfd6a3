"""The index of a run folder: which files were found whole, so that resuming need not read them again.

One line a file: digest, size and time of the last change. It is a cache, as git's index is: a file that has another
size or time is read and checked, a line that is lost or torn costs one more look, and the index may be deleted.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Stamp = tuple[int, int]  # size in bytes, time of the last change in nanoseconds


def stamp_of(status: os.stat_result) -> Stamp:
    """Give what tells a changed file from an unchanged one."""
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Index:
    """The lines of the file `path`, the last one of a digest valid."""

    path: Path

    def read(self) -> Mapping[str, Stamp]:
        """Give the stamps by digest; none where there is no index."""
        found: dict[str, Stamp] = {}
        with suppress(OSError), self.path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
                    found[words[0]] = int(words[1]), int(words[2])
        return found

    def add(self, stamps: Iterable[tuple[str, Stamp]]) -> None:
        """Append lines; each begins with the end of the line before, which a full disk may have torn.

        Where that cannot be done, nothing is lost but time.
        """
        text = "".join(f"\n{digest} {size} {time}" for digest, (size, time) in stamps)
        if text:
            with suppress(OSError), self.path.open("ab", buffering=0) as file:
                file.write(text.encode())

"""Deliberate faults that the tests must notice: tried by hand as ``python -m mutations``, kept findable by the suite.

A fault is data, in one file for each part of the house: what to write in place of what, and which tests should fail
then.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Fault:
    """One change of one file.

    Attributes:
        name: what is wrong then, in a few words.
        file: below ``src/saplab``.
        old, new: a text that stands there once, and what takes its place.
        tests: ids for pytest, below ``tests``, separated by spaces.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def ids(self) -> list[str]:
        """Return the ids of the tests, from the repository's root."""
        return [f"tests/{test}" for test in self.tests.split()]

    def applied(self, source: str) -> str:
        """Return the faulty source; ValueError where the old text does not stand there once."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} holds {self.old!r} {source.count(self.old)} times, not once")
        return source.replace(self.old, self.new)


def rooms() -> dict[str, list[Fault]]:
    """Return the faults of each room."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("of_*.py"))
    return {name.removeprefix("of_"): import_module(f"mutations.{name}").FAULTS for name in names}

"""What a run measured, as data: records, fits and ceilings, to JSON and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from suite.measure import Spread

FORMAT: Final = 1


@dataclass(frozen=True)
class Record:
    """One contender in one case.

    Args:
        section: part of the benchmark.
        case: what was asked for: a shape and law, a precision, a network, or what grows.
        name: who did it, or the size that it was done at.
        unit: of `value`.
        value: wall-clock time or memory.
        ratio: how many times `of`'s value, round by round; None where there is nothing to compare with.
        of: the reference of `ratio`.
        processor: median processor time in `unit`; None for memory.
        size: of a scaling: images, samples, activations, percent or threads.
        details: further numbers, such as the bytes that a kernel has to move.
    """

    section: str
    case: str
    name: str
    unit: str
    value: Spread
    ratio: Spread | None = None
    of: str = ""
    processor: float | None = None
    size: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Give what names a record in every run."""
        return self.section, self.case, self.name


@dataclass(frozen=True)
class Fit:
    """A power law through the medians of one scaling: time = constant · size^exponent.

    Args:
        case: what grows.
        exponent: slope of the line in log-log.
        error: half the 95 % interval of the exponent; None for fewer than three sizes.
        expected: exponent of perfect scaling.
        constant: time at size 1, in the unit of the case's records.
        deviation: the largest relative distance of a median from the line.
    """

    case: str
    exponent: float
    error: float | None
    expected: float
    constant: float
    deviation: float


@dataclass(frozen=True)
class Part:
    """What one section found, and who was left out, with the reason."""

    records: tuple[Record, ...]
    fits: tuple[Fit, ...] = ()
    ceilings: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """All that one run measured, and where."""

    machine: Mapping[str, Any]
    options: Mapping[str, Any]
    records: tuple[Record, ...]
    fits: tuple[Fit, ...] = ()
    ceilings: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def section(self, name: str) -> tuple[Record, ...]:
        """Give the records of one section, in the order of measuring."""
        return tuple(record for record in self.records if record.section == name)

    def to_json(self) -> dict[str, Any]:
        """Give JSON's own types."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Results":
        """Read what `to_json` gave.

        Raises:
            ValueError: for another format, or fields that are missing or foreign.
        """
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise ValueError(f"results must have `format` {FORMAT}")
        try:
            return cls(
                dict(content["machine"]),
                dict(content["options"]),
                tuple(_record(entry) for entry in content["records"]),
                tuple(Fit(**entry) for entry in content["fits"]),
                dict(content["ceilings"]),
                tuple(content["left_out"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"results with a field missing or foreign: {error}") from None


def _record(entry: Mapping[str, Any]) -> Record:
    ratio = None if entry["ratio"] is None else Spread(**entry["ratio"])
    return Record(**{**entry, "value": Spread(**entry["value"]), "ratio": ratio})


def read_results(path: Path) -> Results:
    """Read a ``results.json``.

    Raises:
        ValueError: if the file holds something else.
        OSError: if it cannot be read.
    """
    try:
        return Results.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} holds no results of `saplab bench`: {error}") from None

"""What a run measured, as data; to JSON and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from suite.timing import Spread


@dataclass(frozen=True)
class Record:
    """One contender in one case.

    Attributes:
        section: part of the benchmark.
        case: the task: a shape and law, a precision, a network, or what grows.
        name: the contender, or the size of the task.
        unit: of `value`.
        value: wall-clock time or memory.
        ratio: `value` / that of `of`, round by round; None where there is nothing to compare with.
        of: the reference of `ratio`.
        processor: median processor time in `unit`; None for memory.
        size: in a scaling: images, samples, activations, percent or threads.
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
    size: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what identifies a record in every run."""
        return self.section, self.case, self.name


@dataclass(frozen=True)
class Fit:
    """A power law through the medians of one scaling: time = constant · size^exponent.

    Attributes:
        case: what grows.
        exponent: slope of the line in log-log.
        error: half the 95 % interval of the exponent; None for fewer than three sizes.
        expected: exponent of ideal scaling.
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
    """What one section measured, and who was left out, with the reason."""

    records: tuple[Record, ...]
    fits: tuple[Fit, ...] = ()
    ceilings: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """All that one run measured, where, and with which sizes and rounds."""

    machine: Mapping[str, Any]
    options: Mapping[str, Any]
    records: tuple[Record, ...] = ()
    fits: tuple[Fit, ...] = ()
    ceilings: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    format: Literal[1] = 1

    def section(self, name: str) -> tuple[Record, ...]:
        """Return the records of one section, in the order of measuring."""
        return tuple(record for record in self.records if record.section == name)

    def with_part(self, part: Part, machine: Mapping[str, Any]) -> "Results":
        """Add what one more section measured, and what is new about the machine."""
        return Results(
            {**self.machine, **machine},
            self.options,
            self.records + part.records,
            self.fits + part.fits,
            {**self.ceilings, **part.ceilings},
            self.left_out + part.left_out,
        )

    def to_json(self) -> bytes:
        """Encode as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def read_results(path: Path) -> Results:
    """Read a ``results.json``.

    Raises:
        ValueError: if the file holds something else.
        OSError: if it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} holds no results of benchmarks/bench.py: {error}") from None

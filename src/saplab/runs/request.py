"""What a run folder was asked for: its curves as JSON, read back as they were."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from saplab.runs.cell import NUMERICS, Cell, Curve, Network

_FORMAT = 4


@dataclass(frozen=True)
class Request:
    """All that a run folder shall hold.

    Args:
        title: heading of the report.
        curves: what to compute, in the order of the report; no label twice.
        command: the command line that makes the same run again.
        classes: names of the classes, in the labels' order; empty where unknown.

    Raises:
        ValueError: for no curve, a curve without cells, or a label used twice.
    """

    title: str
    curves: tuple[Curve, ...]
    command: str = ""
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels = [(curve.figure, curve.label) for curve in self.curves]
        if not labels or not all(curve.cells for curve in self.curves):
            raise ValueError("`curves` must hold at least one curve, each with at least one cell")
        if len(set(labels)) < len(labels):
            raise ValueError(f"`curves` must have different labels in a figure, got {labels}")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Give the cells of all curves in order, each once; repeats with other seeds last."""
        return tuple(self.by_digest.values())

    @cached_property
    def by_digest(self) -> Mapping[str, Cell]:
        """Give the same cells by their digests."""
        first = (cell for curve in self.curves for cell in curve.cells)
        repeats = (cell for curve in self.curves for cells in curve.repeats for cell in cells)
        found: dict[str, Cell] = {}
        for cell in (*first, *repeats):
            found.setdefault(cell.digest, cell)
        return found

    def extended(self, other: "Request") -> "Request":
        """Give this request and after it the curves of `other` that it lacks; the commands that make both.

        Raises:
            ValueError: if there is a `conflict`.
        """
        if conflict := self.conflict(other):
            raise ValueError(f"`other` must not ask otherwise ({conflict})")
        own = {curve.label for curve in self.curves}
        more = tuple(curve for curve in other.curves if curve.label not in own)
        if not more:
            return self
        commands = dict.fromkeys(filter(None, (self.command, other.command)))
        return replace(self, curves=(*self.curves, *more), command=" && ".join(commands))

    def conflict(self, other: "Request") -> str:
        """Name what `other` asks otherwise of a curve that both have; empty if the two may share a folder."""
        own = {curve.label: curve for curve in self.curves}
        both = (curve for curve in other.curves if curve.label in own)
        found = ((curve.label, _curve_difference(own[curve.label], curve)) for curve in both)
        return next((f"curve {label!r}: {difference}" for label, difference in found if difference), "")

    def to_json(self) -> str:
        """Give the text of ``request.json``.

        Raises:
            ValueError: if the cells of a curve are not one request cut into ranges without a gap.
        """
        fields = {
            "format": _FORMAT,
            "title": self.title,
            "command": self.command,
            "classes": list(self.classes),
            "curves": [_curve_fields(curve) for curve in self.curves],
        }
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Request":
        """Read what `to_json` wrote.

        Raises:
            ValueError: for any other text, or cells of another version of the numerics.
        """
        try:
            fields = json.loads(text)
            if fields["format"] != _FORMAT:
                raise ValueError(f"format {fields['format']}, this version of saplab reads {_FORMAT}")
            curves = tuple(_curve(curve) for curve in fields["curves"])
            return cls(fields["title"], curves, fields["command"], tuple(fields["classes"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a request: {error!r}") from error

    def difference(self, other: "Request") -> str:
        """Name what `other` asks otherwise ("passes 100, not 20"); empty if both ask for the same numbers.

        Titles, commands, names of classes, claims and the paper's numbers decide no number and are not compared.
        """
        mine, others = ([f"{c.figure} {c.label}".strip() for c in request.curves] for request in (self, other))
        if mine != others:
            return f"curves {', '.join(mine)}, not {', '.join(others)}"
        pairs = zip(self.curves, other.curves, strict=True)
        return next(filter(None, (_curve_difference(a, b) for a, b in pairs)), "")


def cell_from_json(text: str) -> Cell:
    """Read what `Cell.to_json` wrote, so that the digest is the same.

    Raises:
        ValueError: for any other text, or a cell of another version of the numerics.
    """
    try:
        return _cell(json.loads(text))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a cell: {error!r}") from error


def _cell(fields: Mapping[str, Any]) -> Cell:
    values = dict(fields)
    if (numerics := values.pop("numerics")) != NUMERICS:
        raise ValueError(f"numerics {numerics}, this version of saplab computes with {NUMERICS}")
    for name in ("defender", "adversary"):
        values[name] = Network(**values[name])
    return Cell(**{**values, "strengths": tuple(values["strengths"])})


def _curve_fields(curve: Curve) -> dict[str, Any]:
    """Describe a curve by its first cell, the bounds of its ranges and its seeds: thousands of cells in a few lines."""
    first = curve.cells[0]
    bounds = [first.start, *(cell.stop for cell in curve.cells)]
    seeds = [cells[0].seed for cells in (curve.cells, *curve.repeats) if cells]
    if _cut(first, bounds, seeds) != (curve.cells, *curve.repeats):
        raise ValueError(f"`curves` must hold one cell cut into ranges without a gap, got others in {curve.label!r}")
    cell = json.loads(first.to_json())
    paper = [[strength, percent] for strength, percent in curve.paper.items()]
    words = {"label": curve.label, "claim": curve.claim, "paper": paper, "figure": curve.figure}
    return {**words, "cell": cell, "bounds": bounds, "seeds": seeds}


def _curve(fields: Mapping[str, Any]) -> Curve:
    cells, *repeats = _cut(_cell(fields["cell"]), fields["bounds"], fields["seeds"])
    return Curve(fields["label"], cells, fields["claim"], dict(fields["paper"]), tuple(repeats), fields["figure"])


def _cut(cell: Cell, bounds: Sequence[int], seeds: Sequence[int]) -> tuple[tuple[Cell, ...], ...]:
    """Cut a cell into the ranges between `bounds`, for each seed."""
    ranges = tuple(pairwise(bounds))
    return tuple(tuple(replace(cell, start=a, stop=b, seed=seed) for a, b in ranges) for seed in seeds)


def _curve_difference(a: Curve, b: Curve) -> str:
    mine, others = (dict(_leaves(json.loads(curve.cells[0].to_json()))) for curve in (a, b))
    for fields, curve in ((mine, a), (others, b)):
        fields.pop("start"), fields.pop("stop")
        fields["examples"] = f"{curve.cells[0].start}..{curve.cells[-1].stop}"
        fields["examples per cell"] = str([cell.stop - cell.start for cell in curve.cells])
        fields["seeds"] = str(1 + len(curve.repeats))
    names = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
    return ", ".join(f"{name} {mine.get(name, 'absent')}, not {others.get(name, 'absent')}" for name in names[:2])


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name} {key}".strip())
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)

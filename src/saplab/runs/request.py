"""What a run folder was asked for: its curves as JSON, read back as they were."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, Final

import msgspec

from saplab.runs.cell import Cell, Curve, cell_of

FORMAT: Final = 5


class OldFormatError(ValueError):
    """A request that another version of saplab wrote."""


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    """Cells that differ in their range alone: thousands of them in a few lines."""

    cell: dict[str, Any]
    bounds: list[int]


class _Curve(msgspec.Struct, forbid_unknown_fields=True):
    label: str
    claim: str
    paper: list[tuple[float, float]]
    figure: str
    against: str
    parts: list[_Part]
    seeds: list[int]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    title: str
    command: str
    classes: list[str]
    curves: list[_Curve]


@dataclass(frozen=True)
class Request:
    """All that a run folder shall hold.

    Attributes:
        title: heading of the report.
        curves: what to compute, in the order of the report; no label twice in a figure.
        command: the command line that makes the same run again; empty for a run from Python.
        classes: names of the classes, in the labels' order; empty where unknown.

    Raises:
        ValueError: no curve, a curve without cells, or a label used twice.
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
        """Return the cells of all curves in order, each once; repeats with other seeds last."""
        return tuple(self.by_digest.values())

    @cached_property
    def by_digest(self) -> Mapping[str, Cell]:
        """Return the same cells by their digests."""
        first = (cell for curve in self.curves for cell in curve.cells)
        repeats = (cell for curve in self.curves for cells in curve.repeats for cell in cells)
        found: dict[str, Cell] = {}
        for cell in (*first, *repeats):
            found.setdefault(cell.digest, cell)
        return found

    @property
    def shareable(self) -> bool:
        """Return whether other requests may share the folder: games are the same whoever asks for them."""
        return all(cell.kind == "games" for curve in self.curves for cell in curve.cells[:1])

    def extended(self, other: "Request") -> "Request":
        """Return this request and after it the curves of `other` that it lacks; the commands that make both.

        Raises:
            ValueError: there is a `conflict`.
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

    def difference(self, other: "Request") -> str:
        """Name what `other` asks otherwise ("passes 100, not 20"); empty if both ask for the same numbers.

        Titles, commands, names of classes, claims and the paper's numbers decide no number and are not compared.
        """
        mine, others = ([f"{c.figure} {c.label}".strip() for c in request.curves] for request in (self, other))
        if mine != others:
            return f"curves {', '.join(mine)}, not {', '.join(others)}"
        pairs = zip(self.curves, other.curves, strict=True)
        return next(filter(None, (_curve_difference(a, b) for a, b in pairs)), "")

    def to_json(self) -> str:
        """Return the text of ``request.json``.

        Raises:
            ValueError: the cells of a curve are not requests cut into ranges without a gap.
        """
        curves = [_described(curve) for curve in self.curves]
        content = _File(FORMAT, self.title, self.command, list(self.classes), curves)
        return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Request":
        """Read what `to_json` wrote.

        Raises:
            OldFormatError: another version of saplab wrote it.
            ValueError: any other text, or a defence or attack that is not known here.
        """
        try:
            written = msgspec.json.decode(text, type=dict[str, Any]).get("format")
            if written != FORMAT:
                raise OldFormatError(f"format {written}, this version of saplab reads {FORMAT}")
            found = msgspec.json.decode(text, type=_File)
        except msgspec.DecodeError as error:
            raise ValueError(f"not a request: {error}") from None
        return cls(found.title, tuple(map(_curve, found.curves)), found.command, tuple(found.classes))


def _described(curve: Curve) -> _Curve:
    parts = [_Part(dict(cells[0].key), _bounds(cells)) for cells in _runs_of(curve.cells)]
    paper = [(float(strength), float(percent)) for strength, percent in curve.paper.items()]
    seeds = [cells[0].seed for cells in curve.seeds]
    found = _Curve(curve.label, curve.claim, paper, curve.figure, curve.against, parts, seeds)
    if [cell.digest for cell in _curve(found).every_cell()] != [cell.digest for cell in curve.every_cell()]:
        raise ValueError(f"`curves` must hold cells cut into ranges without a gap, got others in {curve.label!r}")
    return found


def _runs_of(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Yield the cells that follow each other and differ in their range alone."""
    for _, run in groupby(cells, lambda cell: replace(cell, start=0, stop=1).digest):
        yield list(run)


def _bounds(cells: Sequence[Cell]) -> list[int]:
    return [cells[0].start, *(cell.stop for cell in cells)]


def _curve(found: _Curve) -> Curve:
    wholes = [(cell_of(part.cell), part.bounds) for part in found.parts]
    cells, *repeats = (
        tuple(replace(cell, start=a, stop=b, seed=seed) for cell, bounds in wholes for a, b in pairwise(bounds))
        for seed in found.seeds
    )
    return Curve(found.label, cells, found.claim, dict(found.paper), tuple(repeats), found.figure, found.against)


def _curve_difference(a: Curve, b: Curve) -> str:
    mine, others = (dict(_leaves(curve.first.key)) for curve in (a, b))
    for fields, curve in ((mine, a), (others, b)):
        fields.pop("start"), fields.pop("stop")
        fields["eps"] = ", ".join(map(str, curve.eps))
        fields["ranges"] = str([_bounds(cells) for cells in _runs_of(curve.cells)])
        fields["seeds"] = str(len(curve.seeds))
    names = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
    return ", ".join(f"{name} {mine.get(name, 'absent')}, not {others.get(name, 'absent')}" for name in names[:2])


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name} {key}".strip())
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)

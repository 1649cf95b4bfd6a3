"""What a run folder was asked for: its curves as JSON, read back as they were."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import groupby, pairwise
from typing import Annotated, Any, Final

import msgspec

from saplab.attacks import Attack
from saplab.defenses import Defense
from saplab.runs.cell import Cell, Curve, EarlierVersionError, cell_of
from saplab.system.counts import check_cells
from saplab.system.registry import import_object

FORMAT: Final = 5


class DamagedRequestError(ValueError):
    """A ``request.json`` that is no longer what was written; the command that made it can write it anew."""


class _Part(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Cells that differ in their range alone: thousands of them in a few lines."""

    cell: dict[str, Any]
    bounds: list[int]
    seeds: Annotated[int, msgspec.Meta(ge=1)] | None = None  # how many of the curve's seeds have them, where not all do


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
    homes: dict[str, str]  # "package.module:Class" of the user's own registered classes, by their names
    curves: list[_Curve]
    notes: list[str] = []
    sha256: str = ""  # of the file as it is without it

    def checksum(self) -> str:
        return sha256(msgspec.json.encode(msgspec.structs.replace(self, sha256=""))).hexdigest()


@dataclass(frozen=True)
class Request:
    """All that a run folder shall hold.

    Attributes:
        title: heading of the report.
        curves: what to compute, in the order of the report; no label twice in a figure.
        command: the command line, or the call in Python, that makes the same run again; empty where none is known.
        classes: names of the classes, in the labels' order; empty where unknown.
        notes: what the rehearsal found that people should know; it decides nothing.
    """

    title: str
    curves: tuple[Curve, ...]
    command: str = ""
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.curves or not all(curve.cells for curve in self.curves):
            raise ValueError("`curves` must hold at least one curve, each with at least one cell")
        if len(self._by_name) < len(self.curves):
            labels = ", ".join(curve.name for curve in self.curves)
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
        return all(curve.first.kind == "games" for curve in self.curves)

    @property
    def names(self) -> list[str]:
        """Return what the curves are called."""
        return list(self._by_name)

    @property
    def _by_name(self) -> dict[str, Curve]:
        return {curve.name: curve for curve in self.curves}

    def conflict(self, other: "Request") -> str:
        """Name what `other` asks otherwise of a curve that both have; empty if the two may share a folder."""
        theirs = other._by_name
        found = ((name, _difference(mine, theirs[name])) for name, mine in self._by_name.items() if name in theirs)
        return next((f"curve {name!r}: {difference}" for name, difference in found if difference), "")

    def difference(self, other: "Request") -> str:
        """Name what `other` asks otherwise ("curve 'dense': passes 100, not 20"); empty for the same numbers."""
        mine, others = self.names, other.names
        if [_digests(curve) for curve in self.curves] == [_digests(curve) for curve in other.curves]:
            return ""  # the same curves, whatever an earlier version called them
        return self.conflict(other) if mine == others else f"curves {', '.join(mine)}, not {', '.join(others)}"

    def to_json(self) -> str:
        """Return the text of ``request.json``; a curve that has gaps, or that cannot be read back, is an error."""
        curves = [_described(curve) for curve in self.curves]
        content = _File(
            FORMAT, self.title, self.command, list(self.classes), _homes(self.curves), curves, list(self.notes)
        )  # fmt: skip
        content.sha256 = content.checksum()
        return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Request":
        """Read what `to_json` wrote; modules of the user's classes are imported.

        Raises:
            ValueError: a defence or attack that is not known here, or has changed; `EarlierVersionError` where an
                earlier version of saplab wrote it, `DamagedRequestError` for any other text.
        """
        try:
            written = msgspec.json.decode(text, type=dict[str, Any]).get("format")
            if isinstance(written, int) and written != FORMAT:
                error = EarlierVersionError if written < FORMAT else ValueError
                raise error(f"format {written}, this version of saplab reads {FORMAT}")
            found = msgspec.json.decode(text, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DamagedRequestError(f"not a request: {error}") from None
        if found.sha256 and found.sha256 != found.checksum():
            raise DamagedRequestError("it is damaged: it does not match its checksum")
        check_cells(sum(len(curve.seeds) * sum(len(part.bounds) for part in curve.parts) for curve in found.curves))
        for name, home in found.homes.items():
            if name not in (*Defense.registry.names, *Attack.registry.names):
                import_object(home)
        return cls(
            found.title, tuple(map(_curve, found.curves)), found.command, tuple(found.classes), tuple(found.notes)
        )


def _homes(curves: Iterable[Curve]) -> dict[str, str]:
    cells = [cells[0] for curve in curves for cells in _runs_of(curve.cells)]
    parts = (part for cell in cells for part in (*cell.defender.defenses, *cell.adversary.defenses, cell.attack))
    own = [
        (part.registered_name, type(part)) for part in parts if part and not type(part).__module__.startswith("saplab.")
    ]
    return {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in own if ":" not in name}


def _described(curve: Curve) -> _Curve:
    every = set(curve.every_cell())
    parts = []
    for cells in _runs_of(curve.cells):
        having = sum(replace(cells[0], seed=seed[0].seed) in every for seed in curve.seeds)
        parts.append(_Part(dict(cells[0].key), _bounds(cells), None if having == len(curve.seeds) else having))
    paper = [(float(strength), float(percent)) for strength, percent in curve.paper.items()]
    seeds = [cells[0].seed for cells in curve.seeds]
    found = _Curve(curve.label, curve.claim, paper, curve.figure, curve.against, parts, seeds)
    if _curve(found).seeds != curve.seeds:
        raise ValueError(f"`curves` must hold cells cut into ranges without a gap, got others in {curve.label!r}")
    return found


def _runs_of(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Yield the cells that follow each other and differ in their range alone."""
    for _, run in groupby(cells, lambda cell: replace(cell, start=0, stop=1)):
        yield list(run)


def _bounds(cells: Sequence[Cell]) -> list[int]:
    return [cells[0].start, *(cell.stop for cell in cells)]


def _curve(found: _Curve) -> Curve:
    wholes = [(cell_of(part.cell), part.bounds, part.seeds or len(found.seeds)) for part in found.parts]
    if max((seeds for *_, seeds in wholes), default=0) != len(found.seeds):
        raise DamagedRequestError(f"its curve {found.label!r} has seeds without a cell, or cells without a seed")
    cells, *repeats = (
        tuple(
            replace(cell, start=a, stop=b, seed=seed)
            for cell, bounds, seeds in wholes if k < seeds for a, b in pairwise(bounds)
        )
        for k, seed in enumerate(found.seeds)
    )  # fmt: skip
    return Curve(found.label, cells, found.claim, dict(found.paper), tuple(repeats), found.figure, found.against)


def _difference(a: Curve, b: Curve) -> str:
    if _digests(a) == _digests(b):
        return ""
    mine, others = _facts(a), _facts(b)
    names = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
    if names and all(name.endswith("digest") for name in names):
        digests = f"{names[0]} {mine[names[0]][:12]}, not {others[names[0]][:12]}"
        return f"the network's weights or code are others, {digests}: does it draw its weights when it is built?"
    found = (f"{name} {mine.get(name, 'absent')}, not {others.get(name, 'absent')}" for name in names[:2])
    return ", ".join(found) or "other cells"


def _digests(curve: Curve) -> list[str]:
    return [cell.digest for cell in curve.every_cell()]


def _facts(curve: Curve) -> dict[str, str]:
    """Return what decides a curve's numbers, as texts by name."""
    found: dict[str, dict[str, None]] = {}
    for cells in _runs_of(curve.cells):
        values = {**cells[0].key, "ranges": _bounds(cells), "seed": [one[0].seed for one in curve.seeds]}
        del values["start"], values["stop"]
        threat = cells[0].threat
        values[threat.symbol] = ", ".join(f"{threat.shown(eps):g}" for eps in values.pop("eps"))
        for name, text in _leaves(values):
            found.setdefault(name, {})[text] = None
    return {name: ", ".join(texts) for name, texts in found.items()}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the values inside plain values."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name} {key}".strip())
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, name)
    else:
        yield name, str(value)

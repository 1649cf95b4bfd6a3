"""Does a recomputed card agree with the stored one?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from saplab.benchmark.card import Card
from saplab.benchmark.protocol import PROTOCOL
from saplab.benchmark.words import MASKED, ball

_COMPUTING: Final = ("time", "command", "cost", "machine")  # of a card: differs between computations of one entry
_TOLD: Final = frozenset({"sentence", "checks", "calibration", "notes", "masked", "attack"})  # of a threat: by rounding
_MEASURED: Final = frozenset({"percent", "low", "high", "majority", "runs", "found"})
_ENDS: Final = frozenset({"low", "high"})
_ABSENT: Final = object()

Path = tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two cards of one entry.

    Attributes:
        same_kind: whether machines of one kind made them, so that everything must be the same.
        compared: how many numbers were compared.
        differences: what differs by more than it may, in words.
        largest: the largest difference of an accuracy, in points.
        words: where the verdicts differ in words, on machines of other kinds, on which words are not compared.
    """

    same_kind: bool
    compared: int
    differences: tuple[str, ...]
    largest: float
    words: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Return whether nothing differs by more than it may."""
        return not self.differences

    @property
    def text(self) -> str:
        """Return what was found, in a sentence."""
        kind = "of the same kind" if self.same_kind else "of another kind"
        limits = (
            "exactly"
            if self.same_kind
            else f"within {PROTOCOL.clean_tolerance:g} points clean, {PROTOCOL.tolerance:g} attacked"
        )
        head = f"{self.compared} numbers, machine {kind}: "
        if self.agrees:
            return f"{head}agree {limits} (largest difference {self.largest:.2f} points)"
        return f"{head}{len(self.differences)} differ: {'; '.join(self.differences[:5])}"


def compare(stored: Card, found: Card) -> Comparison:
    """Compare a recomputed card with the stored one.

    On machines of one kind (see `Machine.kind`) all must be equal, but for the command, the cost and when and where it
    was computed. Elsewhere rounding differs, which an attack of many steps amplifies: accuracies may differ by the
    protocol's tolerances, ends of intervals by twice as much, a verdict that could be told must not turn into its
    opposite, and what the verdict says in words, its checks and calibration are not compared.

    Raises:
        ValueError: cards of other entries, protocols, sizes, networks or images, which cannot be compared.
    """
    for name, mine, other in _facts(stored, found):
        if mine != other:
            raise ValueError(f"{stored.name}: the stored card has another {name} ({mine}) than this one ({other})")
    same = stored.machine.kind == found.machine.kind
    leaves, others = (dict(_leaves(_compared(card, same))) for card in (stored, found))
    differences, gaps = [], [0.0]
    for path in dict.fromkeys((*leaves, *others)):
        mine, other = (every.get(path, _ABSENT) for every in (leaves, others))
        allowed = 0.0 if same else _allowed(path)
        if isinstance(mine, float) and isinstance(other, float):
            gaps += [abs(mine - other)] if path[-1] in _MEASURED - _ENDS else []
            if abs(mine - other) <= allowed + 1e-9:
                continue
        elif mine == other and type(mine) is type(other):
            continue
        differences.append(f"{', '.join(path)}: {_shown(mine)} stored, {_shown(other)} found")
    differences += () if same else _opposites(stored, found)
    numbers = sum(isinstance(value, float) for value in leaves.values())
    words = () if same else tuple(_other_words(stored, found))
    return Comparison(same, numbers, tuple(differences), max(gaps), words)


def _facts(stored: Card, found: Card) -> Iterator[tuple[str, object, object]]:
    for name in ("name", "protocol", "battery", "tier", "seed", "passes", "samples"):
        yield name, getattr(stored, name), getattr(found, name)
    yield "network", stored.network.digest[:12], found.network.digest[:12]
    yield "defence", stored.network.defense, found.network.defense
    yield "images", stored.data.digest[:12], found.data.digest[:12]


def _compared(card: Card, same: bool) -> dict[str, Any]:
    """Return what is compared of a card, as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins(card)
    for name in _COMPUTING:
        del plain[name]
    if same:
        return plain
    for threat in plain["threats"]:
        for name in _TOLD & threat.keys():
            del threat[name]
        for left in threat["left"]:
            del left["attack"]  # which one leaves least
    return plain


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every single value after its path, whose parts a reader knows."""
    if isinstance(value, Mapping):
        norm = value.get("norm") if "left" in value else None
        for name, inner in value.items():
            yield from _leaves(_with_norm(inner, norm), (*path, str(name)))
    elif isinstance(value, list | tuple):
        yield (*path, "count"), len(value)
        for k, inner in enumerate(value):
            yield from _leaves(inner, (*path, _label(inner, k)))
    else:
        yield path, value


def _with_norm(rows: Any, norm: str | None) -> Any:
    """Return a threat's rows with the name of their ball, by which they are known."""
    if norm is None or not isinstance(rows, list | tuple):
        return rows
    return [{**row, "ball": ball(norm, row["eps"])} if "eps" in row else row for row in rows]  # type: ignore[arg-type]


def _label(item: Any, number: int) -> str:
    """Return by what an item of a list is known, else its number."""
    if not isinstance(item, Mapping):
        return str(number)
    names = ("ball",) if "worst" in item else ("key", "attack", "ball", "norm", "radius")
    parts = [f"{item[name]:g}" if name == "radius" else str(item[name]) for name in names if name in item]
    return " at ".join(parts) if parts else str(number)


def _allowed(path: Path) -> float:
    """Return by how much a number may differ between machines of other kinds."""
    if not set(path) & _MEASURED or path[0] in ("claim", "network", "data"):
        return 0.0
    points = PROTOCOL.clean_tolerance if path[0] in ("clean", "certified") else PROTOCOL.tolerance
    return 2 * points if path[-1] in _ENDS else points


def _shown(value: Any) -> str:
    if value is _ABSENT or value is None:
        return "nothing"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _opposites(stored: Card, found: Card) -> Iterator[str]:
    for mine, other in zip(stored.threats, found.threats, strict=True):
        if None not in (mine.masked, other.masked) and mine.masked != other.masked:
            yield f"masked gradient in {mine.norm}: {MASKED[mine.masked]} stored, {MASKED[other.masked]} found"


def _other_words(stored: Card, found: Card) -> Iterator[str]:
    """Yield the verdicts that do not say the same, both of them, since the stored one was not computed here."""
    for mine, other in zip(stored.threats, found.threats, strict=True):
        if (mine.sentence, mine.masked) != (other.sentence, other.masked):
            said, says = (f"{MASKED[one.masked]}, “{one.sentence}”" for one in (mine, other))
            yield f"the verdict in {mine.norm}, stored as {said}; found here: {says}"

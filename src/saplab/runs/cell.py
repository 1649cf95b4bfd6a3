"""The unit of work: one defender against one attack on a range of images or games, and everything that decides it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import msgspec

from saplab.attacks import LINF, Attack, ThreatModel
from saplab.defenses import Defense, label_of


@dataclass(frozen=True, eq=False)
class Network:
    """A network as a cell names it: where it comes from, what its weights are, what defends it.

    Attributes:
        model: a name of the zoo, ``package.module:factory``, or the class of a network given in Python.
        digest: SHA-256 over the parameters and buffers, so that other weights are another cell.
        defenses: in the order in which they act; none for the plain network.
        sites, parameters: patterns of the places that they act on; empty for all.
    """

    model: str
    digest: str
    defenses: tuple[Defense, ...] = ()
    sites: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    @cached_property
    def key(self) -> Mapping[str, Any]:
        """Return everything that decides the network's numbers, as plain values."""
        defenses = [Defense.registry.encode(defense) for defense in self.defenses]
        return {**_plain_fields(self), "defenses": defenses}

    @cached_property
    def _text(self) -> str:
        return _canonical(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    @property
    def undefended(self) -> "Network":
        """Return the same network without its defences."""
        return Network(self.model, self.digest)

    def defended(self, defenses: Sequence[Defense], sites: Sequence[str] = ()) -> "Network":
        """Return the same network with these defences in the place of its own."""
        return Network(self.model, self.digest, tuple(defenses), tuple(sites) if defenses else ())

    @property
    def random(self) -> bool:
        """Return whether its passes differ."""
        return any(defense.random for defense in self.defenses)

    @property
    def has_rules(self) -> bool:
        """Return whether an adversary's backward rule makes a difference for its gradient."""
        return any(defense.has_rules for defense in self.defenses)

    @property
    def label(self) -> str:
        """Return what a chart calls it: "SAP-100", or "dense" without a defence."""
        return label_of(self.defenses)

    @property
    def spec(self) -> str:
        """Return its defences as text; empty without any."""
        return "+".join(defense.spec for defense in self.defenses)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One stored result's request: everything that decides its numbers, and nothing else.

    Attributes:
        defender, adversary: the network under attack and the one that the attacker asks.
        attack: with all settings; None where nothing is attacked.
        eps: radii of the attack.
        start, stop: the range of examples or of games.
        passes: stochastic passes averaged for a prediction or an action.
        seed: of the defence's draws and, as a separate stream, the attack's.
        precision: of the network's arithmetic, ``float32`` or ``bfloat16``.
        device: kind of the device (``cpu``, ``cuda``): each kind has kernels with draws and rounding of their own.
        threat: norm and bounds of the attack.
    """

    kind: ClassVar[str]
    numerics: ClassVar[int]  # raised when the same cell would give other numbers
    ranges: ClassVar[str]  # what the ranges count

    defender: Network
    adversary: Network
    attack: Attack | None
    eps: tuple[float, ...]
    start: int
    stop: int
    passes: int = 1
    seed: int = 0
    precision: str = "float32"
    device: str = "cpu"
    threat: ThreatModel = LINF

    @cached_property
    def key(self) -> Mapping[str, Any]:
        """Return everything that decides the cell's numbers, as plain values."""
        return {
            "kind": self.kind,
            "numerics": self.numerics,
            **_plain_fields(self),
            "defender": self.defender.key,
            "adversary": self.adversary.key,
            "attack": None if self.attack is None else Attack.registry.encode(self.attack),
            "eps": list(map(float, self.eps)),
            "threat": {"norm": self.threat.norm, "bounds": list(map(float, self.threat.bounds))},
        }

    def to_json(self) -> str:
        """Return the key as canonical JSON: sorted names, no spaces."""
        return _canonical(self.key)

    @cached_property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that name the cell's file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @cached_property
    def together(self) -> str:
        """Return what cells have in common that are computed together."""
        return self.digest

    @classmethod
    def work_of(cls, group: "Sequence[Self]") -> int:
        """Return the work of cells that are computed together, in the unit of the progress bar."""
        raise TypeError(f"{cls.__name__} has no work")

    @property
    def transferred(self) -> bool:
        """Return whether the attacker asks another network than the defender."""
        return self.adversary != self.defender and (self.attack is None or self.attack.knowledge != "nothing")

    @property
    def across(self) -> bool:
        """Return whether an undefended network is attacked with what was made for a defended one."""
        return not self.defender.defenses and bool(self.adversary.defenses)


@dataclass(frozen=True, kw_only=True)
class ImageCell(Cell):
    """A cell of images: each is attacked at each radius and predicted by fresh passes.

    Attributes:
        data: digest of the data set (images and labels).
    """

    kind = "images"
    numerics = 6
    ranges = "examples"

    attack: Attack
    data: str

    @cached_property
    def images(self) -> str:
        """Return what decides the adversarial images: all but the defender and its passes."""
        return self._images(self.attack)

    @cached_property
    def together(self) -> str:
        """Return what decides the images of the attack's whole family; see `Attack.family`."""
        return self._images(self.attack.family)

    def _images(self, attack: Attack) -> str:
        values = {**self.key, "attack": Attack.registry.encode(attack)}
        return _canonical({name: value for name, value in values.items() if name not in ("defender", "passes")})

    @property
    def attacked_eps(self) -> tuple[float, ...]:
        """Return the radii above 0."""
        return tuple(eps for eps in self.eps if eps > 0)

    @property
    def crafting(self) -> int:
        """Bound the work of making one adversarial image at every radius, in passes."""
        return self.attack.cost(self.attacked_eps).passes if self.attacked_eps else 0

    @classmethod
    def work_of(cls, group: Sequence[Self]) -> int:
        """Return the passes of one image through a network, at most; a backward pass counts as two."""
        images = group[0].stop - group[0].start
        predictions = sum(cell.passes * len(cell.eps) for cell in group)
        return images * (max(cell.crafting for cell in group) + predictions)


@dataclass(frozen=True, kw_only=True)
class GameCell(Cell):
    """A cell of full Atari games: one agent against one attack at one radius, over a range of episodes.

    Attributes:
        game: name of the ROM.
        newest: whether the attacker changes only the newest frame of each stack.
        sticky, epsilon, max_frames: as in `saplab.rl.play.Rules`.

    Raises:
        ValueError: no episode, or several radii.
    """

    kind = "games"
    numerics = 4
    ranges = "episodes"

    game: str
    newest: bool = False
    sticky: float = 0.0
    epsilon: float = 0.05
    max_frames: int = 108_000

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"there must be at least one episode, got the range {self.start}..{self.stop}")
        if len(self.eps) != 1:
            raise ValueError(f"a cell of games has one radius, got {self.eps}")

    @property
    def plain(self) -> "GameCell":
        """Return the same cell in the one form that cells with equal scores share.

        Without a radius there is no attack; random noise asks no network.
        """
        if self.eps == (0.0,):
            return replace(self, attack=None, adversary=self.defender, newest=False)
        asks = self.attack is not None and self.attack.knowledge != "nothing"
        return replace(self, adversary=self.adversary if asks else self.defender)

    @classmethod
    def work_of(cls, group: Sequence[Self]) -> int:
        """Return the number of games."""
        return sum(cell.stop - cell.start for cell in group)


KINDS: Mapping[str, type[Cell]] = {kind.kind: kind for kind in (ImageCell, GameCell)}


def cell_of(key: Mapping[str, Any]) -> Cell:
    """Return the cell that a `Cell.key` describes, so that the digest is the same.

    Raises:
        ValueError: any other values, another version of the numbers, or a defence or attack that is not known here.
    """
    values = dict(key)
    kind = KINDS.get(str(values.pop("kind", "")))
    if kind is None:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {key.get('kind')!r}")
    if (numerics := values.pop("numerics", None)) != kind.numerics:
        raise ValueError(f"numerics {numerics}, this version of saplab computes with {kind.numerics}")
    try:
        return msgspec.convert(values, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a cell: {error}") from None


def _decode(kind: type, value: Any) -> Any:
    if kind in (Defense, Attack) and isinstance(value, Mapping):
        return kind.registry.decode(value)  # type: ignore[attr-defined]
    raise ValueError(f"{kind.__name__} must be an object, got {value!r}")


def _plain_fields(value: Any) -> dict[str, Any]:
    """Return the fields in the one form that equal cells share."""
    plain = {field.name: (field.type, getattr(value, field.name)) for field in fields(value)}
    return {
        name: list(own) if isinstance(own, tuple) else float(own) if kind is float else own
        for name, (kind, own) in plain.items()
    }


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


Group = tuple[Cell, ...]


def groups_of(cells: Iterable[Cell]) -> list[Group]:
    """Gather the cells that are computed together, in the order of each group's first."""
    found: dict[bytes, list[Cell]] = {}
    for cell in cells:
        found.setdefault(hashlib.sha256(cell.together.encode()).digest(), []).append(cell)
    return [tuple(group) for group in found.values()]


def work_of(cells: Iterable[Cell]) -> int:
    """Return the work of cells, in the unit of their kind."""
    return sum(type(group[0]).work_of(group) for group in groups_of(cells))


@dataclass(frozen=True)
class Curve:
    """What a chart draws as one line: a label and its cells.

    Attributes:
        label: what a person reads ("SAP-100, identity backward").
        cells: of all ranges and radii, of the first seed; of one radius they are one request cut into ranges, in order,
            without a gap.
        claim: what the label's adversary knows or does, one sentence for the report.
        paper: the paper's numbers by λ, where they exist: accuracies, or relative changes of points, in %.
        repeats: the same cells with other seeds, one tuple a seed.
        figure: name of the figure that the curve belongs to; "" where a run has but one.
        against: label of the curve that changes are relative to; "" for none.
    """

    label: str
    cells: tuple[Cell, ...]
    claim: str = ""
    paper: Mapping[float, float] = field(default_factory=dict)
    repeats: tuple[tuple[Cell, ...], ...] = ()
    figure: str = ""
    against: str = ""

    @property
    def first(self) -> Cell:
        """Return the first cell, which tells all that a curve's cells have in common."""
        return self.cells[0]

    @property
    def seeds(self) -> tuple[tuple[Cell, ...], ...]:
        """Return the cells of each seed."""
        return (self.cells, *self.repeats)

    def every_cell(self) -> Iterator[Cell]:
        """Yield the cells of all seeds."""
        for cells in self.seeds:
            yield from cells

    @property
    def eps(self) -> tuple[float, ...]:
        """Return the radii, in the order of the cells."""
        return tuple(dict.fromkeys(eps for cell in self.cells for eps in cell.eps))

    def cells_at(self, eps: float) -> Iterator[Cell]:
        """Yield the cells of all seeds that hold a radius."""
        return (cell for cell in self.every_cell() if eps in cell.eps)


def cut(whole: Cell, size: int, seeds: int = 1) -> tuple[tuple[Cell, ...], ...]:
    """Cut a cell into cells of at most `size` examples or games, for each of `seeds` seeds from the cell's own.

    Raises:
        ValueError: a `size` or `seeds` below 1, or an empty range.
    """
    if seeds < 1:
        raise ValueError(f"`seeds` must be >= 1, got {seeds}")
    if size < 1:
        raise ValueError(f"`batch_size` must be >= 1, got {size}")
    if whole.stop <= whole.start:
        raise ValueError(f"there must be at least one example, got the range {whole.start}..{whole.stop}")
    starts = range(whole.start, whole.stop, size)
    return tuple(
        tuple(replace(whole, start=a, stop=min(a + size, whole.stop), seed=whole.seed + k) for a in starts)
        for k in range(seeds)
    )

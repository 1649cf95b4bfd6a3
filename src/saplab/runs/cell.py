"""The unit of work: one defender against one attack on a range of images or games, and everything that decides it."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from operator import index
from typing import Any, ClassVar, Final, Self, get_args

import msgspec

from saplab.attacks import LINF, Attack, Cost, ThreatModel
from saplab.defenses import Defense, label_of
from saplab.models.zoo import ARCHITECTURES, PACKAGED
from saplab.rng.streams import EXAMPLES
from saplab.system.counts import check_count
from saplab.system.registry import Named


class EarlierVersionError(ValueError):
    """A cell or a request of an earlier version of saplab, whose numbers or keys were others."""


USUAL_STEPS: Final = 1000  # of a game, for how far one of unknown length is


@dataclass(frozen=True, eq=False)
class Network:
    """A network as a cell names it.

    Attributes:
        model: a name of the zoo, ``package.module:factory``, or the class of a network given in Python.
        digest: SHA-256 over the parameters and buffers.
        defenses: in the order in which they act.
        sites, parameters: patterns of the places that they act on; empty for all.
        grain: whose the draws of its own code are, as the rehearsal found: ``example``, ``pass``, ``batch``,
            ``unkeyed``, or ``frozen`` where each is always the same; "" without any.
        outputs: ``logits`` or ``probabilities``.
    """

    model: str
    digest: str
    defenses: tuple[Defense, ...] = ()
    sites: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    grain: str = ""
    outputs: str = "logits"

    @cached_property
    def key(self) -> Mapping[str, Any]:
        """Return everything that decides the network's numbers, as plain values."""
        return _plain_fields(self)

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
        return replace(self, defenses=(), sites=(), parameters=())

    @property
    def reference(self) -> "Network | None":
        """Return the network to transfer from: without its defences or, without any, with its own draws frozen."""
        if self.defenses:
            return self.undefended
        return replace(self, grain="frozen") if self.random else None

    @property
    def comes_again(self) -> bool:
        """Return whether the draws of its own code can be made again in any batch, to see what an attack has seen."""
        return self.grain not in ("unkeyed", "batch")

    @property
    def random(self) -> bool:
        """Return whether its passes differ."""
        return self.grain not in ("", "frozen") or any(defense.random for defense in self.defenses)

    @property
    def has_rules(self) -> bool:
        """Return whether an adversary's backward rule makes a difference for its gradient."""
        return any(defense.has_rules for defense in self.defenses)

    @property
    def label(self) -> str:
        """Return what a chart calls it: "SAP-100", or "stochastic" where it has draws of its own.

        With neither it is "undefended"; saplab's own networks are "dense", as the paper calls them.
        """
        own = {"": "", "frozen": "one frozen draw"}.get(self.grain, "stochastic")
        bare = "dense" if self.model in PACKAGED or self.model in ARCHITECTURES else "undefended"
        return "+".join(filter(None, (own, label_of(self.defenses) if self.defenses else ""))) or bare

    @property
    def spec(self) -> str:
        """Return its defences as text; empty without any."""
        return "+".join(defense.spec for defense in self.defenses)


@dataclass(frozen=True, kw_only=True)
class Cell(ABC):
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

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a range of {self.ranges} must hold at least one, got {self.start}..{self.stop}")
        if self.stop > EXAMPLES:
            raise ValueError(f"{self.ranges} are numbered below 2^32, got {self.start}..{self.stop}")
        check_count("passes", self.passes)
        if isinstance(self.seed, int) and self.seed >= 2**63:  # JSON's readers know no others
            raise ValueError(f"`seed` must be below 2^63, got {self.seed}")

    @property
    def key(self) -> Mapping[str, Any]:
        """Return everything that decides the cell's numbers, as plain values."""
        return {"kind": self.kind, "numerics": self.numerics, **_plain_fields(self)}

    def to_json(self) -> str:
        """Return the key as JSON in the one form that equal cells share."""
        return _canonical(self.key)

    @cached_property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that name the cell's file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def together(self) -> str:
        """Return what cells that are computed together have in common."""
        return self.digest

    @classmethod
    @abstractmethod
    def work_of(cls, group: "Sequence[Self]") -> int:
        """Return the work of cells that are computed together, in the unit of the progress bar."""

    @property
    def transferred(self) -> bool:
        """Return whether the attacker asks another network than the defender."""
        return self.adversary != self.defender and (self.attack is None or self.attack.knowledge != "nothing")

    @property
    def across(self) -> bool:
        """Return whether an undefended network is attacked with what was made for a defended one."""
        return not self.defender.defenses and bool(self.adversary.defenses)

    def check_device(self, device: str) -> None:
        """Refuse a device of another kind, whose numbers would be others."""
        if device.partition(":")[0] != self.device:
            raise ValueError(f"a cell for `device` {self.device} cannot be computed on {device}")


@dataclass(frozen=True, kw_only=True)
class ImageCell(Cell):
    """A cell of images: each is attacked at each radius and predicted by fresh passes."""

    kind = "images"
    numerics = 11
    ranges = "examples"

    attack: Attack
    data: str  # digest of the data set (images and labels)

    @property
    def images(self) -> str:
        """Return what decides the adversarial images: all but the defender and its passes."""
        return _canonical({name: value for name, value in self.key.items() if name not in ("defender", "passes")})

    @property
    def together(self) -> str:
        """Return what decides the images of the attack's whole family; see `Attack.family`."""
        return replace(self, attack=self.attack.family).images

    @property
    def attacked_eps(self) -> tuple[float, ...]:
        """Return the radii above 0."""
        return tuple(eps for eps in self.eps if eps > 0)

    @property
    def crafting(self) -> int:
        """Bound the work of making one adversarial image at every radius, in passes."""
        if not self.attacked_eps:
            return 0
        cost = self.attack.cost(self.attacked_eps)
        if not isinstance(cost, Cost):
            raise TypeError(f"{type(self.attack).__name__}.cost must return a saplab.Cost, got {cost!r}")
        return cost.passes

    @classmethod
    def work_of(cls, group: Sequence[Self]) -> int:
        """Return the passes of one image through a network, at most; a backward pass counts as two."""
        predictions = sum(cell.passes * len(cell.eps) for cell in group)
        return (group[0].stop - group[0].start) * (max(cell.crafting for cell in group) + predictions)


@dataclass(frozen=True, kw_only=True)
class GameCell(Cell):
    """A cell of full Atari games: one agent against one attack at one radius, over a range of episodes.

    Attributes:
        game: name of the ROM.
        newest: whether the attacker changes only the newest frame of each stack.
        sticky, epsilon, max_frames: as in `saplab.rl.play.Rules`.
    """

    kind = "games"
    numerics = 8
    ranges = "episodes"

    game: str
    newest: bool = False
    sticky: float = 0.0
    epsilon: float = 0.05
    max_frames: int = 108_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.eps) != 1 or not 0 <= self.eps[0] <= 1:
            raise ValueError(f"a cell of games has one radius within [0, 1], got {self.eps}")
        for name, most in (("sticky", math.nextafter(1, 0)), ("epsilon", 1.0)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise ValueError(f"`{name}` must be within [0, 1{')' if most < 1 else ']'}, got {value}")
        if self.threat != LINF:
            raise ValueError(f"a cell of games is attacked in L∞ within [0, 1], got {self.threat}")

    @property
    def plain(self) -> "GameCell":
        """Return the cell that stands for all with equal scores: radius 0 is no attack, noise asks no network."""
        if self.eps[0] == 0:
            return replace(self, attack=None, adversary=self.defender, newest=False)
        asks = self.attack is not None and self.attack.knowledge != "nothing"
        return replace(self, adversary=self.adversary if asks else self.defender)

    @property
    def most_steps(self) -> int:
        """Return the actions, of four frames each, after which a game is stopped."""
        return -(-self.max_frames // 4)

    @property
    def step_passes(self) -> int:
        """Return the passes that one step of one game takes at most; a backward pass counts as two."""
        if self.attack is None or self.eps == (0.0,):
            return self.passes
        return self.passes + self.attack.cost(self.eps).passes + self.attack.samples

    def work_after(self, steps: int, going: int) -> int:
        """Return the work that is done after so many steps, with `going` games not ended yet, whose length is unknown.

        Such a game counts as half done after `USUAL_STEPS`, and never as done.
        """
        ended = self.stop - self.start - going
        return self.step_passes * (USUAL_STEPS * ended + USUAL_STEPS * steps * going // (USUAL_STEPS + steps))

    @classmethod
    def work_of(cls, group: Sequence[Self]) -> int:
        """Return the passes of one observation through a network, as if every game took `USUAL_STEPS`."""
        return sum(cell.work_after(0, 0) for cell in group)


_KINDS: Final[Mapping[str, type[Cell]]] = {kind.kind: kind for kind in (ImageCell, GameCell)}


def cell_of(key: Mapping[str, Any]) -> Cell:
    """Return the cell that a `Cell.key` describes.

    Raises:
        ValueError: any other values, or a defence or attack that is not known here; `EarlierVersionError` for numbers
            of an earlier version.
    """
    values = dict(key)
    name, numerics = str(values.pop("kind", "")), values.pop("numerics", None)
    if (kind := _KINDS.get(name)) is None:
        raise ValueError(f"`kind` must be one of {', '.join(_KINDS)}, got {name!r}")
    if numerics != (own := kind.numerics):
        error = EarlierVersionError if isinstance(numerics, int) and numerics < own else ValueError
        raise error(f"numerics {numerics}, this version of saplab computes with {own}")
    try:
        cell = msgspec.convert(values, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ValueError(str(error.__cause__ or f"not a cell: {error}")) from None
    if cell.to_json() != _canonical(key):
        raise ValueError("not a cell as this version of saplab writes it")
    return cell


def _decode(kind: type, value: Any) -> Any:
    if kind in (Defense, Attack) and isinstance(value, Mapping):
        return kind.registry.decode(value)
    raise ValueError(f"{kind.__name__} must be an object, got {value!r}")


_SCALARS: Final[Mapping[Any, Any]] = {str: str, int: index, float: float, bool: bool}


def _plain(value: Any, kind: Any) -> Any:
    """Return a value of a field's kind as JSON has it, in the one form that equal values share."""
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    if isinstance(value, tuple):
        return [_plain(part, get_args(kind)[0]) for part in value]
    if isinstance(value, Named):
        return value.registry.encode(value)
    return value.key if isinstance(value, Network) else _plain_fields(value) if is_dataclass(value) else value


def _plain_fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name), field.type) for field in fields(value)}


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":"), allow_nan=False)  # in order: the first pattern that matches counts


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
        cells: of all radii and ranges, these in order and without a gap, of the first seed.
        claim: what the label's adversary knows or does, in one sentence.
        paper: the paper's numbers by λ, where they exist: accuracies, or relative changes of points, in %.
        repeats: the same cells with other seeds, or some of them, one tuple a seed.
        figure: name of the figure that the curve belongs to, where a run has several.
        against: label of the curve that changes are relative to.
    """

    label: str
    cells: tuple[Cell, ...]
    claim: str = ""
    paper: Mapping[float, float] = field(default_factory=dict)
    repeats: tuple[tuple[Cell, ...], ...] = ()
    figure: str = ""
    against: str = ""

    @property
    def name(self) -> str:
        """Return the label, after the figure's name where there is one; no two curves of a request have the same."""
        return f"{self.figure}: {self.label}" if self.figure else self.label

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

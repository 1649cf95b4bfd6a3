"""Draws of PyTorch's random operators as functions of (seed, pass, call, example): what a network draws by itself.

A `TorchDispatchMode` below autograd sees every operator that a forward pass runs, also inside PyTorch's own layers. A
random one gets its numbers from the streams of `saplab.rng` instead of a generator (`saplab.defenses.laws`). A draw
with an axis that grows with the batch belongs to the examples, each of which has numbers of its own; any other draw
belongs to the pass. Which is which was found by a rehearsal, as shapes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saplab.defenses.checkpoints import refuse_checkpoint, signs
from saplab.defenses.drawing import Drawing
from saplab.defenses.generators import Watch
from saplab.defenses.laws import LAWS, Call, arguments_of
from saplab.rng.numbers import normals, uniforms, words
from saplab.rng.streams import SITES

_KIND: Final = 4  # of these numbers; their keys are apart from those of defences

UNSEEN: Final = (
    "the network drew random numbers, though not on the images on which it was found out whether it is random, and how;"
    " wrap it: saplab.Stochastic(model, example=images) with images on which it does"
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """A draw of the examples: the axis that grows with the batch, and how many entries of it each example has."""

    shape: Shape  # of the draw where the batch is 1 example
    axis: int

    def holds(self, shape: Shape, batch: int, exact: bool) -> bool:
        """Return whether a draw of that shape in a batch of that size is one of these; other axes may be longer."""
        if len(shape) != len(self.shape) or shape[self.axis] != batch * self.shape[self.axis]:
            return False
        others = (self.shape[: self.axis] + self.shape[self.axis + 1 :], shape[: self.axis] + shape[self.axis + 1 :])
        return not exact or others[0] == others[1]


Kind = Axis | Shape  # of a draw of the examples, or the shape of one of the pass


@dataclass(frozen=True)
class Pattern:
    """What a rehearsal has seen of a network's draws: for each call of a pass, the kinds of draw that it made.

    Attributes:
        calls: for each random operator of a pass, in order.
        tiled: whether a network that repeats its batch puts whole batches one after the other, not an example's copies.
    """

    calls: tuple[tuple[Kind, ...], ...] = ()
    tiled: bool = False

    def kind(self, index: int, shape: Shape, batch: int) -> Kind:
        """Return which kind of draw a call makes; one never seen is the examples' where it has a row for each."""
        here = self.calls[index] if index < len(self.calls) else ()
        every = [kind for call in self.calls for kind in call]
        for kinds, exact in ((here, True), (every, True), (here, False)):
            for kind in kinds:
                if kind == shape or (isinstance(kind, Axis) and kind.holds(shape, batch, exact)):
                    return kind
        return Axis((1, *shape[1:]), 0) if every and shape and shape[0] == batch else shape

    @property
    def shared(self) -> bool:
        """Return whether some draw belongs to the pass."""
        return any(not isinstance(kind, Axis) for call in self.calls for kind in call)


NO_PATTERN: Final = Pattern()  # every draw is the pass's


@dataclass(frozen=True)
class Randomness:
    """What was observed of a network's own draws; plain values, so that it travels with the network.

    Attributes:
        pattern: which draws belong to the examples.
        hosts: whether it draws from generators outside PyTorch's operators: NumPy's, Python's, a C extension's.
        seeds: whether it seeds some generators itself in every pass, whose numbers are then left as it makes them.
        keyed: whether the same key gives the same outputs.
        alone: whether an example's outputs are the same in every batch.
        frozen: whether every pass and example has the draws of one.
        drawn: whether there are draws at all, but for those from generators that it seeds itself.
        single: whether it runs one example at a time, as an output would depend on the example's place in its batch.
        written: names of the network's attributes and buffers that passes write.
    """

    pattern: Pattern = NO_PATTERN
    hosts: bool = False
    keyed: bool = True
    alone: bool = True
    frozen: bool = False
    drawn: bool = True
    seeds: bool = False
    single: bool = False
    written: frozenset[str] = frozenset()

    @property
    def random(self) -> bool:
        """Return whether passes differ."""
        return self.drawn and not self.frozen

    @property
    def shared(self) -> bool:
        """Return whether a batch must be a single pass."""
        return self.random and not self._of_examples

    @property
    def _of_examples(self) -> bool:
        """Return whether every draw that was seen, if there was one, is an example's own."""
        return self.keyed and self.alone and not (self.hosts or self.pattern.shared)

    @property
    def grain(self) -> str:
        """Return whose the draws are: ``example``, ``pass``, ``batch``, or ``unkeyed`` where nothing repeats them.

        "" where there are none.
        """
        if not self.drawn or not self.keyed:
            return "unkeyed" if self.drawn else ""
        return "batch" if not self.alone else "pass" if self.shared else "example"

    def numbers(self, drawing: Drawing, batch: int) -> "Numbers":
        """Return the numbers of a pass over a batch."""
        watch = Watch() if self.seeds else None
        return Numbers(drawing, batch, self.pattern, watch=watch, strict=self._of_examples)


@dataclass
class Numbers:
    """The numbers of one pass over a batch, call after call.

    Attributes:
        drawing: the streams.
        batch: examples of the batch.
        pattern: which draws belong to examples.
        shapes: of the calls so far.
        watch: tells which generators the network has seeded itself, whose numbers are not these; None for none.
        strict: whether a draw of no example's is an error.
        shared: whether there was one.
        level: whether all rows of a draw, whosoever they are, get the same numbers.
    """

    drawing: Drawing
    batch: int
    pattern: Pattern
    shapes: list[Shape] = field(default_factory=list)
    watch: Watch | None = None
    strict: bool = False
    shared: bool = False
    level: bool = False

    def next(self, shape: Sequence[int], device: torch.device) -> "Source":
        """Return the numbers of the next call, for a draw of that shape."""
        index, shape = len(self.shapes), tuple(shape)
        if index >= SITES:
            raise ValueError(f"a network may draw {SITES} times in a pass")
        self.shapes.append(shape)
        kind = self.pattern.kind(index, shape, self.batch)
        if isinstance(kind, Axis):
            rows = self.drawing.rows(shape[kind.axis], f"draw {index}", tiled=self.pattern.tiled)
            return Source((self._of_pass(len(rows)) if self.level else rows).to(device), shape, kind.axis, index)
        if self.strict:
            raise ValueError(UNSEEN)
        self.shared = True
        axis = 0 if self.level and shape else None
        return Source(self._of_pass(1 if axis is None else shape[0]).to(device), shape, axis, index)

    def _of_pass(self, rows: int = 1) -> Tensor:
        drawing = self.drawing if self.drawing.shared is not None else self.drawing.of_one_pass()
        assert drawing.shared is not None
        return drawing.shared.expand(rows, -1)


@dataclass
class Source:
    """The numbers of one call: each method gives new ones, in the shape of the draw or with another size behind it.

    Attributes:
        streams: (R, 3), one for each entry of the axis; a single one for a draw of the pass.
        shape: of the draw.
        axis: along which the streams lie; None for a draw of the pass.
        site: number of the call.
    """

    streams: Tensor
    shape: Shape
    axis: int | None
    site: int
    used: int = 0

    @property
    def of_examples(self) -> bool:
        """Return whether each entry of the axis has numbers of its own."""
        return self.axis is not None

    @property
    def rest(self) -> Shape:
        """Return the shape of one entry of the axis."""
        return self.shape if self.axis is None else self.shape[: self.axis] + self.shape[self.axis + 1 :]

    def seeds(self) -> list[int]:
        """Draw a seed of 32 bits for each entry of the axis."""
        kind, self.used = _KIND + self.used, self.used + 1
        return words(self.streams, 1, self.site, kind)[:, 0].tolist()

    def uniform(self) -> Tensor:
        """Draw numbers uniform in [0, 1), multiples of 2^-24."""
        return self._filled(uniforms)

    def normal(self) -> Tensor:
        """Draw standard normal numbers, float32."""
        return self._filled(normals)

    def words(self) -> Tensor:
        """Draw integers uniform in [0, 2^32), int64."""
        return self._filled(words)

    def fine(self) -> Tensor:
        """Draw numbers uniform in the open interval (0, 1), float64, from 52 bits."""
        high, low = self.words(), self.words()
        return ((high << 20 | low >> 12).double() + 0.5) * 2.0**-52

    def _filled(self, numbers: Callable[[Tensor, int, int, int], Tensor]) -> Tensor:
        rows, size = len(self.streams), math.prod(self.shape)
        kind, self.used = _KIND + self.used, self.used + 1
        if size == 0:
            return numbers(self.streams[:0], 0, self.site, kind).view(self.shape)
        flat = numbers(self.streams, size // rows, self.site, kind)
        return flat.view(self.shape) if self.axis is None else flat.view(rows, *self.rest).movedim(0, self.axis)


class KeyedDraws(TorchDispatchMode):
    """Inside, PyTorch's random operators get keyed numbers, whatever generator they name."""

    def __init__(self, numbers: Numbers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers, self.signs = numbers, signs()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        law = LAWS.get(func._schema.name)
        if law is not None:
            refuse_checkpoint(self.signs)
            call = Call.of(func, args, kwargs, self.numbers.next)
            watch = self.numbers.watch
            return func(*args, **kwargs) if watch and watch.seeded(call.generator) else call.result(law)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        with self:  # an operator that is made of others, as inference mode leaves them whole
            whole = func.decompose(*args, **kwargs)
        if whole is not NotImplemented:
            return whole
        if _draws_nothing(func, args, kwargs):
            return func(*args, **kwargs)
        raise ValueError(_unknown(func))


def _draws_nothing(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether an operator that may drop out drops nothing in this call."""
    given = arguments_of(func, args, kwargs)
    rates = [given[name] for name in ("dropout_p", "dropout", "p") if name in given]
    return bool(rates) and all(rate in (0, None) for rate in rates)


def _unknown(func: Any) -> str:
    advice = ""
    if "attention" in func._schema.name:
        advice = "; run it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), whose dropout can be keyed"
    return f"the random operator {func._schema.name} has no keyed form in saplab{advice}"

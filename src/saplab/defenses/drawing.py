"""Which numbers a forward pass draws: the streams of its examples, and what a defence's hook takes from them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from saplab.defenses.relaxed import relaxing
from saplab.pruning.operator import BackwardRule
from saplab.rng.numbers import normals, uniforms, words
from saplab.rng.streams import EXAMPLES, SITES, derived_key, numbered, pass_streams

GradientRule = BackwardRule | Literal["relaxed"]  # how an adversary takes a network's gradient
GRADIENT_RULES: Final = (*get_args(BackwardRule), "relaxed")

_FIRST_KIND: Final = 16  # of the numbers that hooks draw themselves; those below belong to kernels and attacks
_KINDS: Final = 256 - _FIRST_KIND
MOST_DEFENSES: Final = 16  # per network: a place's number in the streams is its own · MOST_DEFENSES + position
_NARROW: Final = 1 << 20  # numbers of equal chance, to 2^-12 of it, that one word tells apart
_EVERYWHERE: Final = SITES // 2 - 2 * MOST_DEFENSES  # beyond all weights, and below what maps share in a pass


@dataclass(frozen=True)
class Drawing:
    """The draws of one pass over a batch. All that changes from pass to pass is in tensors, for `torch.compile`.

    Attributes:
        streams: (N, 3) int64, one row per example of the batch; or (1, 3) of a fresh pass.
        rule: how the gradient passes a defence.
        fresh: whether the batch's rows are numbered from 0, however many they are.
        inputs_only: whether nobody asks for the gradients of parameters.
        shared: (1, 3), the stream of the pass itself; None where `streams` may mix passes.
    """

    streams: Tensor
    rule: GradientRule = "mask"
    fresh: bool = False
    inputs_only: bool = False
    shared: Tensor | None = None

    def rows(self, count: int, where: str, tiled: bool = False) -> Tensor:
        """Return the streams of `count` maps at a place: one each, or k each where a network splits examples.

        An example's k maps are neighbours or, `tiled`, as far from one another as there are examples. Of a fresh pass,
        whose number of examples is not known, each map counts as one.
        """
        if self.fresh:
            return numbered(self.streams, count)
        share, rest = divmod(count, max(len(self.streams), 1))
        if rest:
            raise ValueError(not_examples(where, count, len(self.streams)))
        if share == 1:
            return self.streams
        if (
            not torch.compiler.is_compiling()
            and self.streams.is_cpu
            and int(self.streams[:, 2].max()) * share >= EXAMPLES
        ):
            raise ValueError(
                f"site {where!r} has {share} maps for each example, whose numbers must be below 2^32 / {share}"
            )
        copies, size = torch.arange(share, device=self.streams.device), len(self.streams)
        rows = self.streams.repeat(share, 1) if tiled else self.streams.repeat_interleave(share, 0)
        rows[:, 2] = rows[:, 2] * share + (copies.repeat_interleave(size) if tiled else copies.repeat(size))
        return rows

    def apart(self, number: int) -> "Drawing":
        """Return draws of the same passes and examples under a key derived from theirs."""
        streams = self.streams.clone()
        if len(streams):
            streams[:, 0] = derived_key(int(streams[0, 0]), number)
        return replace(self, streams=streams, shared=None)

    def of_batch(self, count: int) -> "Drawing":
        """Return the same draws with a row for each of `count` examples, also of a fresh pass."""
        if not self.fresh:
            return self
        return replace(self, streams=self.rows(count, "the input"), fresh=False)

    def on(self, device: torch.device) -> "Drawing":
        """Return the same draws with their streams on a device, where all sites of a pass find them."""
        if self.streams.device == device:
            return self
        shared = None if self.shared is None else _moved(self.shared, device)
        return replace(self, streams=_moved(self.streams, device), shared=shared)

    def of_one_pass(self) -> "Drawing":
        """Return the same draws with the stream of the pass itself, for what all its examples share."""
        if len(self.streams) > 1 and (self.streams[:, :2] != self.streams[:1, :2]).any():
            raise ValueError("one draw serves a whole pass, but this batch mixes passes")
        row = self.streams[:1].clone() if len(self.streams) else pass_streams(0, 0, torch.zeros(1))
        row[:, 2] = EXAMPLES - 1
        return replace(self, shared=row)


def not_examples(where: str, count: int, batch: int) -> str:
    """Return what is wrong where the first axis of a site's maps is not that of the examples."""
    return f"site {where!r} has {count} maps for a batch of {batch} examples: the first axis must be the examples'"


def _moved(streams: Tensor, device: torch.device) -> Tensor:
    """Return streams on a device. They are few bytes, which nothing waits for."""
    return streams.to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Draw:
    """The random numbers of one defence at one place in one pass: a function of (seed, pass, place, example) alone.

    A shape that begins with the number of examples gives each example numbers of its own, which no other example of
    the batch can change. Every call gives new numbers.

    Attributes:
        drawing: of the whole pass.
        site: number of the place in the streams.
        where: name of the place: a site, a parameter or ``input``.
        count: maps at this place; None for what a whole pass shares.
        device: where the numbers go.
    """

    drawing: Drawing
    site: int
    where: str
    count: int | None
    device: torch.device
    _used: list[int] = field(default_factory=lambda: [0], repr=False)
    _common: list[int] = field(default_factory=lambda: [0], repr=False)  # the same of `everywhere`

    @property
    def rule(self) -> BackwardRule:
        """Return the rule by which the gradient passes a defence that knows rules.

        For ``relaxed`` it is ``identity``: pruning and scaling return their input on average, so that the slope of
        their smooth stand-in is 1, as that of a rounding.
        """
        return "identity" if self.drawing.rule == "relaxed" else self.drawing.rule

    @property
    def rows(self) -> Tensor:
        """Return the streams (N, 3) of the maps; (1, 3) of the pass itself where it shares its draws."""
        if self.count is not None:
            return _moved(self.drawing.rows(self.count, self.where), self.device)
        if self.drawing.shared is None:
            raise ValueError(f"all examples share a draw at {self.where!r}: the defence must say so by `shared = True`")
        return _moved(self.drawing.shared, self.device)

    @property
    def per_pass(self) -> "Draw":
        """Return the draws that all examples of a pass share, in any shape; such a defence must be `shared`."""
        if self.count is None:  # a weight's draws, or those of `everywhere`
            return self
        site = (self.site + SITES // 2) % SITES  # the other half's: weights have these sites for a whole pass
        return Draw(self.drawing, site, self.where, None, self.device, self._used)

    @property
    def everywhere(self) -> "Draw":
        """Return the draws that all examples of a pass share, the same ones at all places of a defence's hooks.

        The first call of each hook gives the same numbers, and so on; such a defence must be `shared`.
        """
        site = _EVERYWHERE + self.site % MOST_DEFENSES
        return Draw(self.drawing, site, self.where, None, self.device, self._common)

    @property
    def anew(self) -> "Draw":
        """Return the same draws from the first one on."""
        return Draw(self.drawing, self.site, self.where, self.count, self.device)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers, float32."""
        return self._filled(normals, shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw numbers uniform in [0, 1), float32, multiples of 2^-24."""
        return self._filled(uniforms, shape)

    def bernoulli(self, p: float | Tensor, shape: Sequence[int]) -> Tensor:
        """Draw 1 with probability `p` and else 0, float32; `p` may be a tensor that broadcasts to `shape`."""
        return (self.uniform(shape) < p).float()

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        """Draw integers from `low` to `high` - 1, int64."""
        span = high - low
        if not 0 < span <= 2**31:
            raise ValueError(f"`high` must be above `low` by at most 2^31, got {low} and {high}")
        return low + below(span, lambda: self._filled(words, shape))

    def choice(self, options: int | Sequence[Any] | Tensor, shape: Sequence[int] | None = None) -> Any:
        """Choose among options: a number of them, a tensor's rows or a sequence.

        Returns:
            Indices, rows or nested lists, one for each entry of `shape`: (N,) by default, () of `per_pass`.
        """
        count = options if isinstance(options, int) else len(options)
        indices = self.randint(0, count, self._single if shape is None else shape)
        if isinstance(options, int):
            return indices
        return options[indices] if isinstance(options, Tensor) else _picked(options, indices.tolist())

    def multinomial(self, probs: Tensor, draws: int) -> Tensor:
        """Draw indices (N, draws) with replacement, by the probabilities (N, K) of each example, which need no norm."""
        edges = probs.double().cumsum(1)
        shape = (len(probs), draws)
        points = wide(self._filled(words, shape), self._filled(words, shape)).double() * 2.0**-63 * edges[:, -1:]
        return torch.searchsorted(edges, points, right=True).clamp(max=probs.shape[1] - 1)

    def permutation(self, n: int) -> Tensor:
        """Draw an order of 0..n-1 for each example, (N, n) int64; (n,) of `per_pass`."""
        return self._filled(words, (*self._single, n)).argsort(dim=-1, stable=True)

    @property
    def _single(self) -> tuple[int, ...]:
        return () if self.count is None else (self.count,)

    def _filled(self, numbers: Callable[[Tensor, int, int, int], Tensor], shape: Sequence[int]) -> Tensor:
        shape, own = tuple(shape), self._single
        if shape[: len(own)] != own:
            raise ValueError(
                f"a draw's shape must begin with the {self.count} maps at {self.where!r}, got {shape}; draw.per_pass"
                " draws for all of them at once"
            )
        if self._used[0] >= _KINDS:
            raise ValueError(f"a hook may draw {_KINDS} times at one place, more were asked for at {self.where!r}")
        kind = _FIRST_KIND + self._used[0]
        self._used[0] += 1
        return numbers(self.rows, math.prod(shape[len(own) :]), self.site, kind).view(shape)


def wide(first: Tensor, second: Tensor) -> Tensor:
    """Return uniform integers in [0, 2^63) from two words each."""
    return first << 31 ^ second >> 1


def below(span: int, ask: Callable[[], Tensor]) -> Tensor:
    """Return uniform integers in [0, span) from words: one each where one tells them apart, else two.

    It does so exactly for powers of two up to 2^31.
    """
    if span <= _NARROW or (span <= 1 << 31 and span & (span - 1) == 0):
        return ask() * span >> 32
    return wide(ask(), ask()) % span


def _picked(options: Sequence[Any], indices: Any) -> Any:
    return options[indices] if isinstance(indices, int) else [_picked(options, one) for one in indices]


def fresh(key: int, pass_: int, rule: GradientRule = "mask") -> Drawing:
    """Return the draws of a direct call."""
    return Drawing(torch.from_numpy(np.array([[key, pass_, 0]], np.int64)), rule, fresh=True)


def check_rule(rule: str) -> None:
    """Refuse an unknown backward rule."""
    if rule not in GRADIENT_RULES:
        raise ValueError(f"`backward` must be one of {', '.join(GRADIENT_RULES)}, got {rule!r}")


_current: ContextVar[Drawing | None] = ContextVar("saplab_drawing", default=None)


def current() -> Drawing | None:
    """Return the draws that the enclosing `drawing` fixes, or None."""
    return _current.get()


@contextmanager
def drawing(streams: Tensor, rule: GradientRule = "mask", inputs_only: bool = False) -> Iterator[Drawing]:
    """Fix the draws of every defended network called inside: `streams` (N, 3), one row per example of the batch.

    The rule ``relaxed`` acts on everything inside, defended or not; see `saplab.defenses.relaxed`.

    With `inputs_only`, parameters get no gradients where gradients by the input have a shorter way without them.
    """
    check_rule(rule)
    fixed = Drawing(streams, rule, inputs_only=inputs_only)
    token = _current.set(fixed)
    try:
        with relaxing(rule == "relaxed"):
            yield fixed
    finally:
        _current.reset(token)

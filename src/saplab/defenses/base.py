"""What a defence is: a frozen dataclass with one to three hooks, whose only source of randomness is a `Draw`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Final, cast

import torch
from torch import Tensor

from saplab.defenses.drawing import Drawing, moved
from saplab.pruning.normalised import Normalised
from saplab.pruning.operator import BackwardRule
from saplab.rng.numbers import normals, uniforms
from saplab.rng.streams import random_words
from saplab.system.registry import Named, Registry, split_sum

Setting = float | Mapping[str, float]  # one number, or one for each name pattern

_FIRST_KIND: Final = 16  # of the numbers that hooks draw themselves; those below belong to kernels and attacks
_KINDS: Final = 256 - _FIRST_KIND


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

    @property
    def rule(self) -> BackwardRule:
        """Return the rule by which the gradient passes the defence."""
        return self.drawing.rule

    @property
    def rows(self) -> Tensor:
        """Return the streams (N, 3) of the maps; (1, 3) of the pass itself where it shares its draws."""
        streams = self.drawing.whole() if self.count is None else self.drawing.rows(self.count, self.where)
        return moved(streams, self.device)

    @property
    def per_pass(self) -> "Draw":
        """Return the draws that all examples of a pass share, in any shape; such a defence must be `shared`."""
        return Draw(self.drawing, self.site, self.where, None, self.device, self._used)

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
        """Draw integers from `low` to `high` - 1, int64.

        Raises:
            ValueError: there is no integer in that range.
        """
        if not low < high <= low + 2**31:
            raise ValueError(f"`high` must be above `low` by at most 2^31, got {low} and {high}")
        return low + (self._filled(_words, shape) * (high - low) >> 32)

    def choice(self, options: int | Sequence[Any] | Tensor, shape: Sequence[int] | None = None) -> Any:
        """Choose among options: a number of them, a tensor's rows or a sequence.

        Returns:
            Indices or rows, one for each entry of `shape` ((N,) by default); of a sequence, a list.
        """
        indices = self.randint(0, options if isinstance(options, int) else len(options), shape or self._single)
        if isinstance(options, int):
            return indices
        return options[indices] if isinstance(options, Tensor) else [options[i] for i in indices.flatten().tolist()]

    def multinomial(self, probs: Tensor, draws: int) -> Tensor:
        """Draw indices (N, draws) with replacement, by the probabilities (N, K) of each example, which need no norm."""
        edges = probs.double().cumsum(1)
        points = self.uniform((len(probs), draws)).double() * edges[:, -1:]
        return torch.searchsorted(edges, points, right=True).clamp(max=probs.shape[1] - 1)

    def permutation(self, n: int) -> Tensor:
        """Draw an order of 0..n-1 for each example, (N, n) int64; (n,) of `per_pass`."""
        return self.uniform((*self._single, n)).argsort(-1, stable=True)

    @property
    def _single(self) -> tuple[int, ...]:
        return () if self.count is None else (self.count,)

    def _filled(self, numbers: Any, shape: Sequence[int]) -> Tensor:
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
        return cast(Tensor, numbers(self.rows, math.prod(shape[len(own) :]), self.site, kind)).view(shape)


def _words(streams: Tensor, count: int, site: int, kind: int) -> Tensor:
    words = random_words(streams.cpu(), count, site, kind).astype("int64")
    return torch.from_numpy(words).to(streams.device)


class Defense(Named):
    """A defence: derive a frozen dataclass from this class and give it at least one of the three hooks.

    A hook gets all its randomness from its `Draw`, so that its numbers are the same in every batch size, order and
    process.

    Attributes:
        random: whether passes differ.
        shared: whether one draw serves all examples of a pass, which are then never stacked with another pass's. Weight
            hooks always share.
        bends: whether the adversary's backward rules differ here: whether ``identity`` is another gradient than autograd's.
        knows_rules: whether the hooks themselves follow `Draw.rule`; else ``identity`` passes the gradient straight
            through them.

    Example:
        >>> @saplab.register("gaussian-input")
        ... @dataclass(frozen=True)
        ... class GaussianInput(saplab.Defense):
        ...     std: float
        ...     def input(self, x, draw):
        ...         return x + self.std * draw.normal(x.shape)
    """

    registry: ClassVar[Registry["Defense"]] = Registry("defense")
    random: ClassVar[bool] = True
    shared: ClassVar[bool] = False
    bends: ClassVar[bool] = True
    knows_rules: ClassVar[bool] = False

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        """Return what the network gets instead of its input (N, ...)."""
        return x

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Return what takes the place of the maps `h` (N, ...) of an activation function at the site `where`."""
        return h

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        """Return this pass's tensor in place of the parameter `w` with the name `where`."""
        return w

    def serves(self, where: str) -> bool:
        """Return whether the defence acts at the site or parameter of that name."""
        return True

    def draws(self, activations: int, where: str) -> int:
        """Return how many categorical draws a pass makes at a site; 0 for a defence that makes none."""
        return 0

    def rectified(self, h: Tensor, draw: Draw, where: str, norm: Normalised | None) -> Tensor:
        """Return the defended maps of relu(h), in one pass over memory where a defence can.

        Args:
            h: input of the ReLU (N, ...).
            draw: as in `activation`.
            where: name of the site.
            norm: the batch-norm whose output `h` is, where the gradient has a shorter way past it.
        """
        return self.applied("activation", torch.relu(h), draw, where)

    def applied(self, hook: str, x: Tensor, draw: Draw, *where: str) -> Tensor:
        """Run a hook, in the type of its input and by the adversary's backward rule."""
        out: Tensor = getattr(self, hook)(x, draw, *where)
        if self.knows_rules:
            return out
        out = out.to(x.dtype)
        if draw.rule == "identity" and self.bends and hook != "weight" and out.shape == x.shape:
            return cast(Tensor, StraightThrough.apply(x, out))  # type: ignore[no-untyped-call]
        return out

    @property
    def hooks(self) -> frozenset[str]:
        """Return the names of the hooks that the class defines."""
        return frozenset(name for name in _HOOKS if getattr(type(self), name) is not getattr(Defense, name))

    @property
    def shares_draws(self) -> bool:
        """Return whether a batch must be a single pass."""
        return self.random and (self.shared or "weight" in self.hooks)

    @property
    def has_rules(self) -> bool:
        """Return whether the adversary's backward rule makes a difference for the gradient by the image."""
        return self.bends and bool(self.hooks - {"weight"})

    @property
    def label(self) -> str:
        """Return what a chart calls the defence: ``sap:100`` is "SAP-100"."""
        spec = self.spec
        return spec.partition(":")[2] if ":" in self.registered_name else spec.replace(":", "-").upper()


_HOOKS: Final = ("input", "activation", "weight")


class StraightThrough(torch.autograd.Function):
    """The second argument on the way forward, the gradient of the first on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor) -> Tensor:
        """Return `out`."""
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient to `x`."""
        return gradients[0], None


class Tuned(Defense):
    """A defence of one number, the first field: one for all places, or one for each name pattern.

    Of patterns (``{"stage3.*": 50, "*": 100}``) the first that matches counts; where none does, the defence does not act.

    Attributes:
        wanted: what the number must be, for the error.
    """

    knows_rules = True
    wanted: ClassVar[str] = ">= 0 and finite"

    @staticmethod
    def allows(value: float) -> bool:
        """Return whether a number is as `wanted`."""
        return 0 <= value < math.inf

    def __post_init__(self) -> None:
        setting = self._setting
        values = setting.values() if isinstance(setting, Mapping) else (setting,)
        if not values:
            raise ValueError(f"`{self._field}` must hold at least one pattern, got none")
        if wrong := [value for value in values if not self.allows(value)]:
            raise ValueError(f"`{self._field}` must be {self.wanted}, got {wrong[0]}")

    @property
    def _field(self) -> str:
        return fields(cast(Any, self))[0].name

    @property
    def _setting(self) -> Setting:
        return cast(Setting, getattr(self, self._field))

    def serves(self, where: str) -> bool:
        """Return whether the place of that name has a number."""
        return self.number_at(where) is not None

    def number_at(self, where: str) -> float | None:
        """Return the number for the place of that name; None where no pattern matches."""
        setting = self._setting
        if not isinstance(setting, Mapping):
            return setting
        return next((value for pattern, value in setting.items() if fnmatchcase(where, pattern)), None)

    def at(self, where: str) -> float:
        """Return the number for a place that the defence serves."""
        return self.number_at(where) or 0.0


def parse_defenses(text: str) -> tuple[Defense, ...]:
    """Read defences as the command line writes them: ``sap:100``, several joined by ``+``; none for "".

    A number may be given for each name pattern: ``sap:stage3.*=50,*=100``. A class that is not registered is written
    ``package.module:Class(std=0.1)``.

    Raises:
        ValueError: an unknown name, a missing or malformed number, or one that the defence refuses.
    """
    return tuple(map(Defense.registry.parse, split_sum(text)))


def label_of(defenses: Sequence[Defense]) -> str:
    """Return what a chart calls a network with these defences: "SAP-100+RNA-0.01"; "dense" without any."""
    return "+".join(defense.label for defense in defenses) or "dense"

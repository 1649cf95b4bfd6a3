"""What a defence is: a frozen dataclass with one to three hooks, whose only source of randomness is a `Draw`."""

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, ClassVar, Final, NamedTuple, cast

import torch
from torch import Tensor

from saplab.defenses.drawing import Draw as Draw
from saplab.defenses.surrogate import through
from saplab.pruning.normalised import Normalised
from saplab.system.registry import Named, Registry, split_sum

Setting = float | Mapping[str, float]  # one number, or one for each name pattern


class Defense(Named):
    """A defence: derive a frozen dataclass from this class and give it at least one of the three hooks.

    A hook gets all its randomness from its `Draw`, so that its numbers are the same in every batch size, order and
    process.

    The adversary's backward rules: ``identity`` passes the gradient straight through a hook whose output has the shape
    of its input; any other rule, or another shape, takes the gradient of the hook's `surrogate`, or without one the
    hook's own.

    Attributes:
        random: whether passes differ; a class's, or a field where the settings decide.
        shared: whether one draw serves all examples of a pass, which are then never stacked with another pass's.
            Likewise a class's or a field. Weight hooks always share.
        bends: whether those gradients differ, so that the rules are a choice. Where they do not, as where the surrogate
            is the identity, or where straight through would be no honest choice, as where pixels move, every rule takes
            the gradient of surrogate or hook.
        knows_rules: whether the hooks themselves follow `Draw.rule`, so that nothing here is done for them. A class
            that writes a hook of its parent anew says this and `bends` anew.
        title: what a chart calls it, before its settings; by default its text in capitals.

    Examples:
        >>> @saplab.register("gaussian-input")
        ... @dataclass(frozen=True)
        ... class GaussianInput(saplab.Defense):
        ...     std: float
        ...     def input(self, x, draw):
        ...         return x + self.std * draw.normal(x.shape)
    """

    registry: ClassVar[Registry["Defense"]] = Registry("defense")
    random: bool = True
    shared: bool = False
    bends: ClassVar[bool] = True
    knows_rules: ClassVar[bool] = False
    title: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Undo what a parent says of a hook that this class writes anew.

        It takes no ReLU along by its parent's way, and the backward rules act on it as on any other defence.
        """
        super().__init_subclass__()
        own, parent = vars(cls), cls.__mro__[1]
        if "activation" in own and "rectified" not in own:
            cls.rectified = Defense.rectified  # type: ignore[method-assign]
        if any(hook in own and getattr(parent, hook) is not getattr(Defense, hook) for hook in HOOKS):
            cls.knows_rules, cls.bends = own.get("knows_rules", False), own.get("bends", True)

    def input(self, x: Tensor, draw: Draw) -> Tensor:
        """Return what the network gets instead of its input (N, ...)."""
        return x

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Return what takes the place of the maps `h` (N, ...) of an activation function at the site `where`."""
        return h

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        """Return this pass's tensor in place of the parameter `w` with the name `where`."""
        return w

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor | None:
        """Return what the backward pass goes through in place of a hook; None for the hook itself.

        A defence whose hook rounds, compares or leaves PyTorch has no useful gradient: ``return x`` goes straight
        through it (BPDA), a smooth function of the hook's output shape through that function.

        Args:
            hook: ``input``, ``activation`` or ``weight``.
            x: as the hook gets it.
            where: likewise.
            draw: begins anew, so that the hook's own calls give the hook's own numbers.
        """
        return None

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
            where: likewise.
            norm: the batch-norm whose output `h` is, where the gradient has a shorter way past it.
        """
        return self.applied("activation", torch.relu(h), draw, where)

    def applied(self, hook: str, x: Tensor, draw: Draw, *where: str) -> Tensor:
        """Run a hook, in the type of its input and by the adversary's backward rule; see the class."""
        written = None if torch.compiler.is_compiling() or x.is_inference() else x._version
        out = getattr(self, hook)(x, draw, *where)
        if written is not None and x._version != written:
            name = f"{type(self).__name__}.{hook}"
            raise ValueError(f"{name} must not write into what it is given: return a new tensor, such as x + noise")
        if not isinstance(out, Tensor):
            raise TypeError(f"{type(self).__name__}.{hook} must return a tensor, got {type(out).__name__}")
        if self.knows_rules:
            return out
        out = out.to(x.dtype)
        if not torch.is_grad_enabled():
            return out
        if draw.drawing.rule == "identity" and self.bends and hook != "weight" and out.shape == x.shape:
            return through(out, x)
        stand_in = self.surrogate(hook, x, draw.anew, *where)
        return out if stand_in is None else through(out, stand_in, f"{type(self).__name__}.surrogate of {hook}")

    @property
    def hooks(self) -> frozenset[str]:
        """Return the names of the hooks that the class defines."""
        return frozenset(name for name in HOOKS if getattr(type(self), name) is not getattr(Defense, name))

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
        spec, settings = self.spec, self.spec.partition(":")[2]
        if ":" in self.registered_name:
            return settings
        return f"{self.title} {settings.replace(',', ' ')}".strip() if self.title else spec.replace(":", "-").upper()


HOOKS: Final = ("input", "activation", "weight")


class Allowed(NamedTuple):
    """The numbers that a defence accepts, as a test and in words."""

    test: Callable[[float], bool]
    words: str


NOT_NEGATIVE: Final = Allowed(lambda number: 0 <= number < math.inf, ">= 0 and finite")
POSITIVE: Final = Allowed(lambda number: 0 < number < math.inf, "> 0 and finite")


class Tuned(Defense):
    """A defence of one number, the first field: one for all places, or one for each name pattern.

    Of patterns (``{"stage3.*": 50, "*": 100}``) the first that matches counts; without a match the defence does not
    act. A number that is not allowed is a ValueError.
    """

    knows_rules = True
    allowed: ClassVar[Allowed] = NOT_NEGATIVE

    def __post_init__(self) -> None:
        numbers = self._setting.values() if isinstance(self._setting, Mapping) else (self._setting,)
        if not numbers:
            raise ValueError(f"`{self._field}` must hold at least one pattern, got none")
        if odd := [number for number in numbers if isinstance(number, bool | str) or not isinstance(number, Real)]:
            name = type(self).__name__
            raise TypeError(f"`{self._field}` of {name} must be a number or a dict of numbers, got {odd[0]!r}")
        if wrong := [number for number in numbers if not self.allowed.test(number)]:
            raise ValueError(f"`{self._field}` must be {self.allowed.words}, got {wrong[0]}")

    @property
    def _field(self) -> str:
        return str(next(iter(cast(Any, self).__dataclass_fields__)))

    @property
    def _setting(self) -> Setting:
        return cast(Setting, getattr(self, self._field))

    def serves(self, where: str) -> bool:
        """Return whether there is a number for the site or parameter of that name."""
        return self._number(where) is not None

    def at(self, where: str) -> float:
        """Return the number for a place that the defence serves."""
        return self._number(where) or 0.0

    def _number(self, where: str) -> float | None:
        setting = self._setting
        if setting is None or isinstance(setting, float | int):  # a number: asking for a Mapping takes longer
            return setting
        if not isinstance(setting, Mapping):
            return float(setting)  # one of NumPy's
        return next((value for pattern, value in setting.items() if fnmatchcase(where, pattern)), None)


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

"""The rehearsal: what a network is, found out by running it on a few real rows.

Is it random, and whose are its draws, an example's or a pass's; does the rest of the batch matter; are its outputs
logits or probabilities. Types and modes of layers decide nothing.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from saplab.defenses.base import HOOKS, Defense, label_of
from saplab.defenses.defended import Defended
from saplab.defenses.drawing import drawing
from saplab.defenses.dressing import view
from saplab.defenses.host import Generators
from saplab.defenses.keyed import NO_PATTERN, Axis, KeyedDraws, Kind, Numbers, Pattern, Randomness, Shape, Source
from saplab.defenses.sites import announce_modules
from saplab.defenses.unseen import Unseen, handwritten, unseen_notes
from saplab.models.identity import held
from saplab.rng.streams import pass_streams, stream_key

_ROWS: Final = 3
_PASSES: Final = 3
_MANY: Final = 10
_SAME: Final = 1e-3  # of the outputs' size: what rounding may move in another batch size
_SUM: Final = 1e-3  # how far probabilities may be from adding up to 1


@dataclass(frozen=True)
class Observed:
    """What a network was found to be.

    Attributes:
        randomness: its own draws; None where it has none.
        alone: whether an example's outputs are the same whatever else is in its batch.
        probabilities: whether its outputs are probabilities, not logits.
        trains: whether it is in training mode as a whole.
        written: names of attributes and buffers in which it keeps what passes write: they hold other values after
            passes over other images, and are no part of what the network is.
    """

    randomness: Randomness | None = None
    alone: bool = True
    probabilities: bool = False
    trains: bool = False
    written: frozenset[str] = frozenset()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a person should know, in sentences."""
        own = self.randomness
        told = [_GRAINS[own.grain]] if own else []
        told += ["It is in training mode as a whole; call .eval() unless that is meant."] if own and self.trains else []
        told += ["Its outputs are probabilities; saplab takes their logarithm as logits."] if self.probabilities else []
        return tuple(told)


_GRAINS: Final = {
    "example": "The network is random by itself; its draws are the examples' own, and are keyed by seed, pass and"
    " example.",
    "pass": "The network is random by itself; some draw serves a whole pass, and all are keyed by seed and pass.",
    "batch": "The network is random by itself; its draws depend on an example's place in its batch: other batch sizes"
    " give other, equally random numbers.",
    "unkeyed": "The network is random by itself in a way that cannot be keyed: the same command will not give the same"
    " numbers again.",
}  # fmt: skip


_BY_GRADIENT: Final = (
    "the network draws other random numbers where gradients are taken than where they are not, as PyTorch's transformer"
    " layers in evaluation mode with dropout in training mode, so that attacks and predictions would see different"
    " networks; call .train() on these layers too, or torch.backends.mha.set_fastpath_enabled(False)"
)


@dataclass(frozen=True)
class _Trial:
    """One pass of the rehearsal: its outputs, the shapes of its draws, and whether other generators were drawn from."""

    outputs: tuple[Tensor, ...]
    shapes: tuple[Shape, ...]
    hosts: bool

    @property
    def drew(self) -> bool:
        return bool(self.shapes) or self.hosts


@dataclass
class _Noted(Numbers):
    """Numbers that refuse a defence which draws from PyTorch or NumPy, not from its `Draw`."""

    def next(self, shape: Sequence[int], device: torch.device) -> Source:
        if (hook := _hook_that_draws()) is not None:
            raise ValueError(f"{hook} draws from a generator of its own; its numbers must come from `draw`, such as"
                             " draw.normal(x.shape)")  # fmt: skip
        return super().next(shape, device)


def observe(model: nn.Module, images: Tensor) -> Observed:
    """Run a network on three of `images` (N, ...), in two batch sizes and with keyed draws, and see what it does.

    Buffers and generators are left as they were.

    Raises:
        ValueError: the network cannot take the images, a defence draws from a generator of its own, or a random
            operator has no keyed form, or draws are made only where gradients are taken.
    """
    stage = _Stage(model, _rows(images))
    with torch.no_grad(), _untouched(model):
        first, again = stage.whole(0), stage.whole(0)
        before = held(model)
        keyed = _same(first.outputs, again.outputs, 0.0)
        if keyed and stage.draws_by_gradient(first):
            raise ValueError(_BY_GRADIENT)
        probabilities = _are_probabilities(first.outputs)
        if keyed and not first.drew:
            alone = stage.unmoved_by_others() and _same(_tail(first), stage.fewer(0).outputs)
            return Observed(None, alone, probabilities, model.training, _changed(before, held(model)))
        passes = _MANY if first.hosts else _PASSES  # a generator of Python's may choose among ways to go
        whole, fewer = ([run(k) for k in range(passes)] for run in (stage.whole, stage.fewer))
        hosts = any(trial.hosts for trial in (*whole, *fewer))
        calls = _calls(whole, fewer)
        patterns = (Pattern(calls), Pattern(calls, tiled=True))
        fits = next((p for p in patterns if keyed and stage.stands_alone(p)), None)
        alone = not keyed or stage.unmoved_by_others(fits or patterns[0])
        written = _changed(before, held(model))
        randomness = Randomness(fits or patterns[0], hosts, keyed, alone=fits is not None, written=written)
        return Observed(randomness, alone, probabilities, model.training, written)


def unseen(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Return what to say, in sentences, of activations of an undefended network on which no defence can act.

    It is found by one more keyed pass over three of `images` (N, ...), with a gradient.
    """
    leaf = _rows(images).clone().requires_grad_(images.is_floating_point())
    named = view(model)
    announce_modules(named)
    with torch.enable_grad(), _untouched(model), Unseen() as seen:
        image = seen.watched(leaf.clone())  # into which a network may write
        outputs = _Stage(named, image).whole(0).outputs
    return unseen_notes(seen.found, handwritten(outputs, leaf))


def _rows(images: Tensor) -> Tensor:
    rows = images[:_ROWS].detach()
    return torch.cat([rows] * _ROWS)[:_ROWS] if len(rows) < _ROWS else rows


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name for name in {*before, *after} if before.get(name) != after.get(name))


@dataclass(frozen=True)
class _Stage:
    """A network and three rows, on which it can be run again and again."""

    model: nn.Module
    rows: Tensor
    key: int = field(default_factory=lambda: stream_key(0))

    def run(self, rows: Tensor, examples: Tensor, pass_: int, pattern: Pattern) -> _Trial:
        """Run one pass over some rows with keyed draws."""
        streams = pass_streams(self.key, pass_, examples)
        with drawing(streams) as fixed:
            noted = _Noted(fixed, len(rows), pattern)
            with Generators.of(self.model).keyed(self.key, pass_, noted) as moved, KeyedDraws(noted):
                outputs = tree_leaves(ran(self.model, rows))
                hosts = moved()
        return _Trial(tuple(t for t in outputs if isinstance(t, Tensor)), tuple(noted.shapes), hosts)

    def whole(self, pass_: int, pattern: Pattern = NO_PATTERN) -> _Trial:
        """Run a pass over all rows."""
        return self.run(self.rows, torch.arange(len(self.rows)), pass_, pattern)

    def fewer(self, pass_: int, pattern: Pattern = NO_PATTERN) -> _Trial:
        """Run a pass over all rows but the first."""
        return self.run(self.rows[1:], torch.arange(1, len(self.rows)), pass_, pattern)

    def draws_by_gradient(self, first: _Trial) -> bool:
        """Return whether the first pass makes other draws while its gradient is followed."""
        if not self.rows.is_floating_point():
            return False
        rows = self.rows.clone().requires_grad_().clone()  # into which a network may write
        try:
            with torch.enable_grad():
                return self.run(rows, torch.arange(len(rows)), 0, NO_PATTERN).shapes != first.shapes
        except ValueError:  # it cannot be followed
            return False

    def stands_alone(self, pattern: Pattern) -> bool:
        """Return whether examples have the same outputs in another batch, by the draws that a pattern gives them."""
        return all(_same(_tail(self.whole(k, pattern)), self.fewer(k, pattern).outputs) for k in range(_PASSES))

    def unmoved_by_others(self, pattern: Pattern = NO_PATTERN) -> bool:
        """Return whether examples keep their outputs where another one in their batch is changed."""
        changed = self.rows.clone()
        changed[0] = self.rows[0].flatten().flip(0).view(self.rows[0].shape) * 0.5
        examples = torch.arange(len(changed))
        return _same(_tail(self.whole(0, pattern)), _tail(self.run(changed, examples, 0, pattern)))


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Run on one thread, and put the buffers of a network back as they were."""
    trains, threads = any(module.training for module in model.modules()), torch.get_num_threads()
    before = [(buffer, buffer.clone()) for buffer in model.buffers()] if trains else []
    torch.set_num_threads(1)  # three rows are little work, for which threads would only wait for one another
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for buffer, value in before:
            buffer.copy_(value)


def _tail(trial: _Trial) -> tuple[Tensor, ...]:
    return tuple(output[1:] if output.ndim else output for output in trial.outputs)


def _same(ones: Sequence[Tensor], others: Sequence[Tensor], share: float = _SAME) -> bool:
    """Return whether outputs agree up to a share of their size."""
    return len(ones) == len(others) and all(
        one.shape == other.shape and _close(one.double(), other.double(), share)
        for one, other in zip(ones, others, strict=True)
    )


def _close(one: Tensor, other: Tensor, share: float) -> bool:
    size = one[one.isfinite()].abs().max() if one.isfinite().any() else torch.zeros(())
    return bool(torch.isclose(one, other, rtol=share, atol=float(share * size), equal_nan=True).all())


def _are_probabilities(outputs: Sequence[Tensor]) -> bool:
    """Return whether rows of two numbers or more lie in [0, 1] and add up to 1; all 0 and 1 are as good as logits."""
    if len(outputs) != 1 or outputs[0].ndim != 2 or outputs[0].shape[1] < 2:
        return False
    rows = outputs[0].double()
    whole = bool(((rows == 0) | (rows == 1)).all())
    return not whole and bool((rows >= 0).all() and (rows <= 1).all() and ((rows.sum(1) - 1).abs() < _SUM).all())


def _calls(whole: Sequence[_Trial], fewer: Sequence[_Trial]) -> tuple[tuple[Kind, ...], ...]:
    """Return the kinds of draw at each call: those whose shapes grow in proportion to the batch are the examples'."""
    found: list[dict[Kind, None]] = []
    for many, few in zip(whole, fewer, strict=True):
        for index, (a, b) in enumerate(zip_longest(many.shapes, few.shapes)):
            found += [{}] if index == len(found) else []
            kinds = [kind for kind in (a, b) if kind is not None] if a is None or b is None else [_kind(a, b)]
            found[index] |= dict.fromkeys(kinds)
    return tuple(map(tuple, found))


def _kind(many: Shape, few: Shape) -> Kind:
    """Return the kind of a draw that has one shape for `_ROWS` examples and another for one example fewer."""
    differ = [k for k, (a, b) in enumerate(zip(many, few, strict=False)) if a != b]
    if len(many) != len(few) or len(differ) != 1:
        return many
    axis, share = differ[0], many[differ[0]] - few[differ[0]]
    if many[axis] != _ROWS * share:
        return many
    return Axis((*many[:axis], share, *many[axis + 1 :]), axis)


def ran(model: nn.Module, images: Tensor) -> Any:
    """Run a network, or raise a ValueError that says why it cannot take the images."""
    try:
        return model(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, IndexError, TypeError) as error:  # whatever layers raise on other images
        reason, kinds = (
            str(error).strip().partition("\n")[0],
            {p.dtype for p in model.parameters() if p.is_floating_point()},
        )
        other = next((kind for kind in kinds if kind != images.dtype), None)
        advice = f" (its weights are {other}; call .float() first)" if other else ""
        parts = [part for part in model.modules() if isinstance(part, Defended)] if isinstance(model, nn.Module) else []
        who = "the network" + "".join(f" behind {label_of(part._saplab_plan.defenses)}" for part in parts)
        what = f"{images.dtype} images of shape {tuple(images.shape[1:])}"
        raise ValueError(f"{who} cannot take {what}{advice}: {reason}") from error


def _hook_that_draws() -> str | None:
    """Name the defence's hook that is running now, if there is one."""
    frame = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_name in HOOKS else None
        if isinstance(owner, Defense):
            return f"{type(owner).__name__}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return None

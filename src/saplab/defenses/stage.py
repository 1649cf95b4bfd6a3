"""A network on a stage: passes over a few real rows and over many, with keyed draws, and how they compare."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from saplab.defenses.base import HOOKS, Defense
from saplab.defenses.drawing import GradientRule, drawing
from saplab.defenses.dressing import dresses
from saplab.defenses.generators import Noting, Watch
from saplab.defenses.host import Generators
from saplab.defenses.keyed import NO_PATTERN, UNSEEN, KeyedDraws, Numbers, Pattern, Shape, Source
from saplab.rng.streams import pass_streams, stream_key
from saplab.rng.threads import torch_threads

LARGE: Final = 512  # images at most of a batch that is rehearsed, and of one that attacks run at once
_A_THREAD: Final = 128  # images of a forward and backward pass for each thread of a CPU
ROWS: Final = 3
PASSES: Final = 3
_SAME: Final = 1e-3  # of the outputs' size: what rounding may move in another batch size
_ALIKE: Final = 0.05  # of a probability, likewise


def stacked(device: torch.device, threads: int | None = None) -> int:
    """Return how many images at most an attack runs at once, where it stacks several passes of few images."""
    return min(LARGE, _A_THREAD * (threads or torch.get_num_threads())) if device.type == "cpu" else LARGE


@dataclass(frozen=True)
class Trial:
    """One pass of the rehearsal.

    Attributes:
        outputs: of the network.
        shapes: of its draws.
        ends: states of the generators besides PyTorch's operators that were moved; None for those that were not.
        shared: whether some draw was no example's own.
    """

    outputs: tuple[Tensor, ...]
    shapes: tuple[Shape, ...]
    ends: tuple[Any, ...]
    shared: bool

    @property
    def moved(self) -> frozenset[int]:
        """Return the numbers of the other generators that were moved."""
        return frozenset(k for k, end in enumerate(self.ends) if end is not None)


@dataclass
class _Noted(Numbers):
    """Numbers that refuse a defence which draws from PyTorch or NumPy, not from its `Draw`."""

    def next(self, shape: Sequence[int], device: torch.device) -> Source:
        if (hook := _hook_that_draws()) is not None:
            raise ValueError(f"{hook} draws from a generator of its own; its numbers must come from `draw`, such as"
                             " draw.normal(x.shape)")  # fmt: skip
        return super().next(shape, device)


@dataclass(frozen=True)
class Stage:
    """A network, three rows, on which it can be run again and again, and many.

    Attributes:
        model: the network.
        rows: (3, ...), the first of the images, or one of them several times.
        images: (N, ...), a batch of the size that will come.
        seeds: whether the network seeds generators itself, whose numbers are left as it makes them.
        threads: of PyTorch's, for passes over all images; three rows take one.
    """

    model: nn.Module
    rows: Tensor
    images: Tensor
    seeds: bool = False
    key: int = field(default_factory=lambda: stream_key(0))
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def both(self) -> tuple[Tensor, ...]:
        """Return the three rows, and all images where there are more."""
        return (self.rows,) if self.images is self.rows else (self.rows, self.images)

    def run(
        self, rows: Tensor, examples: Tensor, pass_: int, pattern: Pattern, *, watch: Watch | None = None,
        host: int | None = None, level: bool = False, attacked: GradientRule | None = None,
    ) -> Trial:  # fmt: skip
        """Run one pass over some rows with keyed draws; generators besides PyTorch's operators are in pass `host`.

        `attacked` is the rule of a gradient, by which an attack would run the pass; None for a prediction.
        """
        streams = pass_streams(self.key, pass_, examples)
        watch = Watch() if watch is None and self.seeds else watch
        with drawing(streams, attacked or "mask", inputs_only=attacked is not None) as fixed:
            noted = _Noted(fixed, len(rows), pattern, watch=watch, level=level)
            seeded = Generators.of(self.model).keyed(self.key, pass_ if host is None else host, noted)
            with seeded as moves, KeyedDraws(noted):
                outputs = tree_leaves(ran(self.model, rows.clone()))  # into which a network may write
                ends = moves.ends
        return Trial(tuple(t for t in outputs if isinstance(t, Tensor)), tuple(noted.shapes), ends, noted.shared)

    def whole(self, pass_: int, pattern: Pattern = NO_PATTERN) -> Trial:
        """Run a pass over the three rows."""
        return self.run(self.rows, torch.arange(len(self.rows)), pass_, pattern)

    def fewer(self, pass_: int, pattern: Pattern = NO_PATTERN) -> Trial:
        """Run a pass over the three rows but the first."""
        return self.run(self.rows[1:], torch.arange(1, len(self.rows)), pass_, pattern)

    def large(self, pattern: Pattern = NO_PATTERN, backwards: bool = False) -> Trial | None:
        """Run a pass over all images, in their order or the other way round.

        None where the network fails on some of them, which the evaluation will name.
        """
        order = torch.arange(len(self.images))
        order = order.flip(0) if backwards else order
        try:
            with torch_threads(self.threads):
                found = self.run(self.images[order] if backwards else self.images, order, 0, pattern)
        except ValueError as error:
            if not isinstance(error, UnfitImagesError):  # what is wrong is said of its draws
                raise
            return None
        except Exception:
            return None
        return replace(found, outputs=_rows(found, order)) if backwards else found

    def seeds_itself(self) -> bool:
        """Return whether the network draws from a generator in the same state, whatever states there were before."""
        noting, found = Noting(), []
        try:
            for pass_ in range(2):
                noting.states = set()
                self.run(self.rows, torch.arange(len(self.rows)), pass_, NO_PATTERN, watch=noting)
                found.append(noting.states)
        finally:
            for put_back in noting.after.values():
                put_back()
        return bool(found[0] & found[1])

    def seeds_hosts_itself(self, first: Trial) -> bool:
        """Return whether generators besides PyTorch's operators end as before where they begin otherwise.

        That is, the network has seeded them itself, and its outputs are the same as well.
        """
        other = self.run(self.rows, torch.arange(len(self.rows)), 0, NO_PATTERN, host=1)
        return other.ends == first.ends and same(other.outputs, first.outputs, 0.0)

    def by_gradient(self, rule: GradientRule) -> Trial | None:
        """Run the first pass once more as attacks do, while its gradient is followed; None where it cannot be."""
        if not self.rows.is_floating_point():
            return None
        rows = self.rows.clone().requires_grad_().clone()  # into which a network may write
        try:
            with torch.enable_grad():
                found = self.run(rows, torch.arange(len(rows)), 0, NO_PATTERN, attacked=rule)
        except ValueError:
            return None
        return replace(found, outputs=tuple(output.detach() for output in found.outputs))

    def stands_alone(self, pattern: Pattern) -> bool:
        """Return whether examples have the same outputs in another batch, by the draws that a pattern gives them."""
        return all(same(tail(self.whole(k, pattern)), self.fewer(k, pattern).outputs) for k in range(PASSES))

    def stands_in_large(self, pattern: Pattern, hosts: bool) -> bool:
        """Return whether examples have the same outputs among all images too, wherever they stand.

        Where all draws are the examples' in a few rows, they must be so among many.
        """
        if self.images is self.rows:
            return True
        large = self.large(pattern)
        if large is None:
            return True
        if large.shared and not (hosts or pattern.shared):
            return False
        alike = mostly_same(head(large), self.whole(0, pattern).outputs)
        turned = self.large(pattern, backwards=True)
        return alike and (turned is None or mostly_same(large.outputs, turned.outputs))

    def is_the_same_in_large(self, first: Trial) -> bool:
        """Return whether examples have the same outputs among all images in a network that is not random.

        Raises:
            ValueError: it draws there, though not on the three rows.
        """
        if self.images is self.rows:
            return True
        large = self.large()
        if large is None:
            return True
        if large.shapes or (large.moved and not self.seeds):
            raise ValueError(UNSEEN)
        return mostly_same(first.outputs, head(large))

    def unmoved_by_others(self, rows: Tensor, pattern: Pattern = NO_PATTERN) -> bool:
        """Return whether examples keep their outputs where another one in their batch is changed.

        Where that changes which draws there are, all rows are given the same ones.
        """
        changed, examples = rows.clone(), torch.arange(len(rows))
        changed[0] = rows[0].flatten().flip(0).view(rows[0].shape) * 0.5
        with torch_threads(self.threads if rows is self.images else 1):
            one, other = (self.run(some, examples, 0, pattern) for some in (rows, changed))
            if one.shapes != other.shapes:
                one, other = (self.run(some, examples, 0, pattern, level=True) for some in (rows, changed))
        return same(tail(one), tail(other))


def tail(trial: Trial) -> tuple[Tensor, ...]:
    """Return the outputs of all rows but the first."""
    return _rows(trial, slice(1, None))


def head(trial: Trial) -> tuple[Tensor, ...]:
    """Return the outputs of the first three rows."""
    return _rows(trial, slice(ROWS))


def _rows(trial: Trial, which: Any) -> tuple[Tensor, ...]:
    return tuple(output[which] if output.ndim else output for output in trial.outputs)


def same(ones: Sequence[Tensor], others: Sequence[Tensor], share: float = _SAME) -> bool:
    """Return whether outputs agree up to a share of their size."""
    return len(ones) == len(others) and all(
        one.shape == other.shape and bool(_close(one.double(), other.double(), share).all())
        for one, other in zip(ones, others, strict=True)
    )


def mostly_same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Return whether the outputs of all rows but one in twenty, or one, agree as by `same`.

    Where a network rounds or chooses, the last bits of its arithmetic, which vary with the batch's size, may decide.
    """
    return len(ones) == len(others) and all(
        one.shape == other.shape and rows_apart(one, other) <= max(1, len(one) // 20 if one.ndim else 0)
        for one, other in zip(ones, others, strict=True)
    )


def rows_apart(one: Tensor, other: Tensor) -> int:
    """Count the rows in which two outputs of one shape do not agree as by `same`."""
    apart = torch.atleast_1d(~_close(one.double(), other.double(), _SAME))
    return int(apart.flatten(1).any(1).sum() if apart.ndim > 1 else apart.sum())


def _close(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Compare outputs by their size and, rows of logits, by their softmax: what all classes share has any size."""
    size = one[one.isfinite()].abs().max() if one.isfinite().any() else torch.zeros(())
    close = torch.isclose(one, other, rtol=share, atol=float(share * size), equal_nan=True)
    if share == 0 or one.ndim != 2 or one.shape[1] < 2:
        return close
    return close & torch.isclose(one.softmax(1), other.softmax(1), rtol=0.0, atol=_ALIKE, equal_nan=True)


class UnfitImagesError(ValueError):
    """A network fails on images."""


def ran(model: nn.Module, images: Tensor) -> Any:
    """Run a network; UnfitImagesError says why it cannot take the images."""
    try:
        return model(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, IndexError, TypeError) as error:  # whatever layers raise on other images
        reason, kinds = (
            str(error).strip().partition("\n")[0],
            {p.dtype for p in model.parameters() if p.is_floating_point()},
        )
        channels_last = images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3)
        other = next((kind for kind in kinds if kind != images.dtype), None)
        advice = f" (its weights are {other}; call .float() first)" if other else ""
        if channels_last:
            advice += " (they look like (N, H, W, C); write images.permute(0, 3, 1, 2), in NumPy transpose)"
        before = [part._saplab_label for part in dresses(model)] if isinstance(model, nn.Module) else []
        who = "the network" + "".join(f" behind {label}" for label in before if label)
        what = f"{images.dtype} images of shape {tuple(images.shape[1:])}"
        raise UnfitImagesError(f"{who} cannot take {what}{advice}: {reason}") from error


def _hook_that_draws() -> str | None:
    """Name the defence's hook that is running now, if there is one."""
    frame = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_name in HOOKS else None
        if isinstance(owner, Defense):
            return f"{type(owner).__name__}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return None

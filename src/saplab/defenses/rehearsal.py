"""The rehearsal: what a network is, found out by running it on real rows.

Is it random, and whose are its draws, an example's or a pass's; does the rest of the batch matter; are its outputs
logits or probabilities. Types and modes of layers decide nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from saplab.defenses.drawing import GRADIENT_RULES
from saplab.defenses.dressing import dresses, view
from saplab.defenses.keyed import Axis, Kind, Pattern, Randomness, Shape
from saplab.defenses.sites import announce_modules
from saplab.defenses.stage import LARGE, PASSES, ROWS, Stage, Trial, mostly_same, same, stacked, tail
from saplab.defenses.unseen import Unseen, handwritten, unseen_notes
from saplab.models.identity import held
from saplab.rng.threads import torch_threads

_MANY: Final = 10
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
        told = [_GRAINS[own.grain]] if own and own.drawn else []
        told += [_TRAINS] if told and self.trains else []
        told += [_SEEDS] if own and own.seeds else []
        told += [_SINGLE] if own and own.single else []
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

_repeating: Final[WeakSet[nn.Module]] = WeakSet()  # networks that have drawn once, which no later pass shows

_TRAINS: Final = "It is in training mode as a whole; call .eval() unless that is meant."
_SEEDS: Final = (
    "The network seeds generators itself in every pass: what they draw is always the same, and is left as it is."
)
_SINGLE: Final = (
    "What the network returns for an image depends on its place in the batch or on the batch's size, though not on the"
    " other images; saplab runs it on one image at a time."
)
_ONCE: Final = (
    "the network drew random numbers in one pass and none in the next one over as many images: it keeps what it drew"
    " and repeats it, so that its passes are all the same; let it draw afresh in every pass or, where one draw is meant"
    " for good, draw when it is built, from a seed"
)
_BY_GRADIENT: Final = (
    "the network draws other random numbers where gradients are taken than where they are not, as PyTorch's transformer"
    " layers in evaluation mode with dropout in training mode, so that attacks and predictions would see different"
    " networks; call .train() on these layers too, or torch.backends.mha.set_fastpath_enabled(False)"
)


_OTHERWISE: Final = (
    "the network returns something else where gradients are taken than where they are not, so that attacks and"
    " predictions would see different networks; look for torch.is_grad_enabled(), x.requires_grad, draw.rule and"
    " draw.drawing in it"
)

_BOTH_KINDS: Final = (
    "some of the network's passes return probabilities and others logits, which cannot be averaged; let all its parts"
    " return logits, or all probabilities"
)

_DRAWS: Final = (
    "a defence says `random = False`, but its passes differ, so that one pass would be taken for all of them: leave"
    " `random` out, or return False where its settings make every pass the same"
)


def observe(model: nn.Module, images: Tensor) -> Observed:
    """Run a network on `images` (N, ...) with keyed draws, mostly on three of them, and see what it does.

    Three rows tell what its draws are, by two batch sizes; a pass or two over all images, `LARGE` at most, tell whether
    it is the same in a batch of that size: of a random network, in one as large as attacks stack its passes. Buffers
    and generators are left as they were.

    Raises:
        ValueError: the network cannot take the images, a defence draws from a generator of its own or though it says
            that it is not random, a random operator has no keyed form, draws are made once and repeated, only where
            gradients are taken, or not on the first three images, or outputs are others where gradients are taken.
    """
    images, rows = images[:LARGE].detach(), _rows(images)
    stage = Stage(model, rows, images if len(images) > ROWS else rows)
    with torch.no_grad(), _untouched(model):
        if any(map(is_lazy, model.parameters())):  # lazy layers draw their weights in a first pass
            stage.whole(0)
        first = stage.whole(0)
        if (first.shapes or first.moved) and stage.seeds_itself():
            stage = replace(stage, seeds=True)
            first = stage.whole(0)
        again, before = stage.whole(0), held(model)
        keyed = same(first.outputs, again.outputs, 0.0)
        draws = first.shapes or first.moved  # the network itself
        if not (again.shapes or again.moved) and (draws or model in _repeating):
            _repeating.add(model)
            raise ValueError(_ONCE)
        if keyed and not draws and _says_still(model) and _moves(stage, first):
            raise ValueError(_DRAWS)
        if first.shapes or first.moved or _says_random(model):
            stage = replace(stage, images=_stack(images, stage.threads))
        if keyed:
            _refuse_another_when_attacked(stage, first)
        reseeds = bool(first.moved) and stage.seeds_hosts_itself(first)
        if keyed and not first.shapes and (reseeds or not first.moved):
            alone, randomness = _without_draws(replace(stage, seeds=stage.seeds or reseeds), first)
        else:
            alone, randomness = _with_draws(stage, keyed, first.moved if reseeds else frozenset())
        written = _changed(before, held(model))
        outputs = _more_of(stage, first)
        if first.shapes or first.moved:
            _refuse_both_kinds(stage)
    own = randomness and replace(randomness, written=written)
    return Observed(own, alone, _are_probabilities(outputs), model.training, written)


def _refuse_another_when_attacked(stage: Stage, first: Trial) -> None:
    """Refuse a network that attacks would see otherwise than predictions do, by any rule of the gradient."""
    rules = ("mask",) if next(dresses(stage.model), None) is None else GRADIENT_RULES
    for rule in rules:
        followed = stage.by_gradient(rule)
        if followed is None:
            return
        if followed.shapes != first.shapes:
            raise ValueError(_BY_GRADIENT)
        if not mostly_same(first.outputs, followed.outputs):
            raise ValueError(_OTHERWISE)


def _without_draws(stage: Stage, first: Trial) -> tuple[bool, Randomness | None]:
    """Return whether examples stand alone, and how a network is to be run that is not random; None for as it is."""
    plain = Randomness(seeds=stage.seeds, drawn=False)
    fewer = stage.fewer(0)
    if fewer.shapes and not stage.fewer(0).shapes:
        raise ValueError(_ONCE)
    small = stage.unmoved_by_others(stage.rows)
    if small and same(tail(first), fewer.outputs) and stage.is_the_same_in_large(first):
        return True, plain if stage.seeds else None
    alone = small and stage.unmoved_by_others(stage.images)
    return alone, replace(plain, single=True)


def _with_draws(stage: Stage, keyed: bool, seeded: frozenset[int]) -> tuple[bool, Randomness]:
    """Return whether examples stand alone but for their draws, and whose these are; `seeded` decide nothing."""
    passes = _MANY if stage.whole(0).moved - seeded else PASSES  # Python's generator may choose among ways to go
    whole, fewer = ([run(k) for k in range(passes)] for run in (stage.whole, stage.fewer))
    hosts = any(trial.moved - seeded for trial in (*whole, *fewer))
    calls = _calls(whole, fewer)
    patterns = (Pattern(calls), Pattern(calls, tiled=True))
    fits = next((p for p in patterns if keyed and stage.stands_alone(p)), None)
    fits = fits if fits and stage.stands_in_large(fits, hosts) else None
    pattern = fits or patterns[0]
    alone = not keyed or all(stage.unmoved_by_others(some, pattern) for some in stage.both[: 1 if fits else 2])
    return alone, Randomness(pattern, hosts, keyed, alone=fits is not None, seeds=stage.seeds)


def unseen(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Return what to say, in sentences, of activations of an undefended network on which no defence can act.

    It is found by one more keyed pass over three of `images` (N, ...), with a gradient.
    """
    leaf = _rows(images).clone().requires_grad_(images.is_floating_point())
    named = view(model)
    announce_modules(named)
    with torch.enable_grad(), _untouched(model), Unseen() as seen:
        image = seen.watched(leaf.clone())  # into which a network may write
        outputs = Stage(named, image, image).whole(0).outputs
    return unseen_notes(seen.found, handwritten(outputs, leaf))


def _says_still(model: nn.Module) -> bool:
    """Return whether a network is defended, and none of its defences says that it is random."""
    return next(dresses(model), None) is not None and not _says_random(model)


def _says_random(model: nn.Module) -> bool:
    return any(part._saplab_random for part in dresses(model))


def _moves(stage: Stage, first: Trial) -> bool:
    """Return whether some of the next passes differs from the first."""
    return any(not same(first.outputs, stage.whole(k).outputs, 0.0) for k in range(1, _MANY))


def _stack(images: Tensor, threads: int) -> Tensor:
    """Return images as often as an attack stacks them for its passes, whose batches are larger than theirs."""
    wanted = stacked(images.device, threads)
    return torch.cat([images] * -(-wanted // len(images)))[:wanted] if len(images) < wanted else images


def _more_of(stage: Stage, first: Trial) -> tuple[Tensor, ...]:
    """Return outputs by which probabilities are known: votes may be unanimous on three rows, and not on many."""
    if not _whole_numbers(first.outputs):
        return first.outputs
    large = stage.large()
    return first.outputs if large is None else large.outputs


def _refuse_both_kinds(stage: Stage) -> None:
    """Refuse a random network some of whose passes return probabilities and others logits, as some mixtures do."""
    kinds = {_are_probabilities(outputs) for k in range(_MANY) if not _whole_numbers(outputs := stage.whole(k).outputs)}
    if len(kinds) > 1:
        raise ValueError(_BOTH_KINDS)


def _whole_numbers(outputs: Sequence[Tensor]) -> bool:
    return all(bool(((t == 0) | (t == 1)).all()) for t in outputs)


def _rows(images: Tensor) -> Tensor:
    rows = images[:ROWS].detach()
    return torch.cat([rows] * ROWS)[:ROWS] if len(rows) < ROWS else rows


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name for name in {*before, *after} if before.get(name) != after.get(name))


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Run on one thread, and put the buffers of a network back as they were."""
    trains = any(module.training for module in model.modules())
    before = [(buffer, buffer.clone()) for buffer in model.buffers()] if trains else []
    try:
        with torch_threads(1):  # three rows are little work, for which threads would only wait for one another
            yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def _are_probabilities(outputs: Sequence[Tensor]) -> bool:
    """Return whether rows of two numbers or more lie in [0, 1] and add up to 1; all 0 and 1 are as good as logits."""
    if len(outputs) != 1 or outputs[0].ndim != 2 or outputs[0].shape[1] < 2:
        return False
    rows = outputs[0].double()
    whole = bool(((rows == 0) | (rows == 1)).all())
    return not whole and bool((rows >= 0).all() and (rows <= 1).all() and ((rows.sum(1) - 1).abs() < _SUM).all())


def _calls(whole: Sequence[Trial], fewer: Sequence[Trial]) -> tuple[tuple[Kind, ...], ...]:
    """Return the kinds of draw at each call: those whose shapes grow in proportion to the batch are the examples'."""
    found: list[dict[Kind, None]] = []
    for many, few in zip(whole, fewer, strict=True):
        for index, (a, b) in enumerate(zip_longest(many.shapes, few.shapes)):
            found += [{}] if index == len(found) else []
            kinds = [kind for kind in (a, b) if kind is not None] if a is None or b is None else [_kind(a, b)]
            found[index] |= dict.fromkeys(kinds)
    return tuple(map(tuple, found))


def _kind(many: Shape, few: Shape) -> Kind:
    """Return the kind of a draw that has one shape for `ROWS` examples and another for one example fewer."""
    differ = [k for k, (a, b) in enumerate(zip(many, few, strict=False)) if a != b]
    if len(many) != len(few) or len(differ) != 1:
        return many
    axis, share = differ[0], many[differ[0]] - few[differ[0]]
    if many[axis] != ROWS * share:
        return many
    return Axis((*many[:axis], share, *many[axis + 1 :]), axis)

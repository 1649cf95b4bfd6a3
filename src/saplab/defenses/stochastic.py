"""Networks that are random by themselves: the draws of their own code as functions of (seed, pass, example)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.utils._pytree import tree_map

from saplab.defenses.checkpoints import refuse_checkpoint
from saplab.defenses.drawing import Drawing, drawing
from saplab.defenses.dressing import Dress, dressed, dresses, stripped, undress, undressed_class, view
from saplab.defenses.host import Generators
from saplab.defenses.keyed import KeyedDraws, Randomness
from saplab.defenses.rehearsal import Observed, observe
from saplab.defenses.sites import is_announcement
from saplab.defenses.stage import LARGE
from saplab.models.identity import is_part, values
from saplab.rng.streams import pass_streams, stream_key
from saplab.system.source import contents_text

_APART: Final = 1 << 40  # number of the streams' key, apart from those of ranks and replicas
PLACED: Final = (
    "what the network returns for an image depends on its place in the batch or on the batch's size, so that it must"
    " run on one image at a time, where no defence can be put on it"
)
_PLAIN: Final = frozenset({bool, int, float, str, type(None)})  # kinds of values that are compared as they are
_LOG: Final = logging.getLogger("saplab")


class Keyed(Dress):
    """The part that `Stochastic` adds to a network's own class."""

    _saplab_randomness: Randomness | None
    _saplab_probabilities: bool = False  # whether its outputs were found to be probabilities

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run one pass: with the draws that an enclosing `drawing` fixes, else with fresh ones."""
        return self._saplab_keyed_run(super().forward, args, kwargs)

    @_disable_dynamo  # what changes from pass to pass stays out of compiled graphs
    def _saplab_keyed_run(self, run: Any, args: Any, kwargs: Any) -> Any:
        refuse_checkpoint()
        inputs = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim), torch.zeros(1))
        own, batch = _learnt(self, inputs), len(inputs)
        if own.single and batch > 1:
            parts = [self._saplab_keyed_run(run, *_row(k, batch, args, kwargs)) for k in range(batch)]
            return torch.cat(parts)
        if not own.drawn and not own.seeds:
            return run(*args, **kwargs)
        drawing = self._saplab_drawing().apart(_APART).of_batch(batch)
        drawing = _frozen(drawing) if own.frozen else drawing
        numbers = own.numbers(drawing, batch)
        if not own.hosts and not own.seeds:
            with KeyedDraws(numbers):
                return run(*args, **kwargs)
        stream = (drawing.of_one_pass() if own.hosts else drawing).streams[0]
        with Generators.of(self).keyed(int(stream[0]), int(stream[1]), numbers), KeyedDraws(numbers):
            return run(*args, **kwargs)

    @property
    def _saplab_random(self) -> bool:
        own = self._saplab_randomness is None or self._saplab_randomness.random
        return own or getattr(super(), "_saplab_random", False)  # of defences behind which it runs

    @property
    def _saplab_shares(self) -> bool:
        own = self._saplab_randomness is None or self._saplab_randomness.shared
        return own or getattr(super(), "_saplab_shares", False)


class Logarithm(Dress):
    """A part that takes the logarithm of a network's probabilities, so that it gives logits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the logarithm of what the network returns."""
        probs = super().forward(*args, **kwargs)
        return probs.clamp(min=torch.finfo(probs.dtype).tiny).log()


def _row(k: int, batch: int, args: Any, kwargs: Any) -> Any:
    """Return arguments with one row of each tensor that has one for each example."""
    return tree_map(lambda v: v[k : k + 1] if isinstance(v, Tensor) and v.ndim and len(v) == batch else v,
                    (args, kwargs))  # fmt: skip


def _frozen(drawing: Drawing) -> Drawing:
    return replace(drawing, streams=pass_streams(stream_key(0), 0, torch.zeros(len(drawing.streams))))


def _learnt(model: Keyed, images: Tensor) -> Randomness:
    """Return the randomness of a keyed network, found out on its first batch where that is not known yet."""
    if model._saplab_randomness is None:
        outermost = undressed_class(model, Keyed) is not type(model)
        found = checked(observe(unkeyed(model) if outermost else stripped(model), images))
        model._saplab_randomness = found.randomness or Randomness(drawn=False, written=found.written)
        model._saplab_probabilities = found.probabilities
    return model._saplab_randomness


def Stochastic(model: nn.Module, seed: int = 0, example: Tensor | None = None) -> nn.Module:
    """Turn a network's own randomness into keyed draws: functions of (seed, pass, example), or (seed, pass).

    Every random operator of PyTorch, with whatever generator, NumPy's generators and Python's `random` draw by keys, so
    that the same seed gives the same bits again: in another batch size, order or process where the draws are the
    examples' own. Layers that are random in their present mode stay so. What a C extension draws is seeded for each
    pass. `evaluate`, `predict` and attacks wrap a random network by themselves; this is for calling it directly.

    Args:
        model: images (N, ...) -> logits (N, classes); it stays as it is, and the result shares its parameters.
        seed: of the draws of direct calls, which are other draws than those of `predict` or `evaluate` with this seed.
        example: a batch of real images (N, ...) to find out on whose the draws are; by default the first batch that
            comes.

    Returns:
        A view of the network, each of whose calls is one fresh pass. It is still an instance of the network's own
        class, so that `isinstance`, attributes and the keys of `state_dict` stay as they were; `Stochastic` is a
        function, and no class to test against.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: an example's output depends on the rest of its batch; a random operator that has no keyed form.

    Examples:
        >>> mine = saplab.Stochastic(MyNet(), seed=0)
        >>> probs = saplab.predict(mine, images, passes=100, seed=1)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
    if any(isinstance(part, Keyed) for part in dresses(model)):
        raise ValueError("`model` is a saplab.Stochastic already")
    found = dressed(model, Keyed, stream_key(seed, "call"))
    found._saplab_randomness = None
    if example is not None:
        learn(found, example)
    return found


def takes_whole_batches(module: nn.Module) -> bool:
    """Return whether a network must not be shared out over threads.

    That is: it draws from generators of the whole process or seeds them, or its draws depend on an example's place in
    the batch.
    """
    if not isinstance(module, Keyed):
        return False
    own = module._saplab_randomness
    return own is None or own.hosts or own.seeds or not own.keyed or not own.alone


def comes_again(module: nn.Module) -> bool:
    """Return whether an example's outputs can be made again in another batch, from its streams."""
    own = module._saplab_randomness if isinstance(module, Keyed) else Randomness(drawn=False)
    return own is not None and own.keyed and own.alone


def frozen(model: nn.Module) -> nn.Module:
    """Return a view of a keyed network that has the draws of one example in one pass in all of them."""
    found: Any = view(model)
    found._saplab_randomness = replace(found._saplab_randomness, frozen=True)
    return found  # type: ignore[no-any-return]


def unkeyed(model: nn.Module) -> nn.Module:
    """Return a view of a keyed network that draws as its code says."""
    found = view(model)
    undress(found, Keyed, "_saplab_randomness")
    return found


def readied(model: nn.Module, observed: Observed) -> nn.Module:
    """Return a network as saplab runs it: with keyed draws, and logits in the place of probabilities."""
    own = observed.randomness
    if isinstance(model, torch.jit.ScriptModule) and (observed.probabilities or own):
        kind = (
            "returns probabilities" if observed.probabilities else "is random" if own and own.drawn else "seeds itself"
        )
        raise ValueError(f"the network is a TorchScript module that {kind}, whose inside cannot be seen; give the"
                         " Python module")  # fmt: skip
    if own and own.single and any(dresses(model)):
        raise ValueError(PLACED)
    if observed.probabilities:
        model = dressed(model, Logarithm, 0)
    if own is None:
        return model
    keyed = dressed(model, Keyed, stream_key(0))
    keyed._saplab_randomness = own
    return keyed


@dataclass(frozen=True)
class _Known:
    """What is remembered of a network.

    Attributes:
        marks: by which it is the same.
        shape: of the images that it was rehearsed on; None where it is trusted with any.
        count: of these images.
        runs: what runs in its place; None for itself.
        observed: what it was found to be.
        watched: whether its attributes are among its marks, but for those that passes write.
        before: what was known before it was trusted.
    """

    marks: Any
    shape: tuple[int, ...] | None
    runs: nn.Module | None
    observed: Observed
    count: int = 0
    watched: bool = True
    before: "_Known | None" = None

    def fits(self, model: nn.Module, images: Tensor) -> bool:
        tried = self.shape == tuple(images.shape[1:]) and min(len(images), LARGE) <= self.count
        return (self.shape is None or tried) and self.marks == _marks(model, self.observed if self.watched else None)


_known: Final[WeakKeyDictionary[nn.Module, _Known]] = WeakKeyDictionary()


def learn(model: nn.Module, images: Tensor) -> tuple[nn.Module, Observed]:
    """Return a network as saplab runs it, and what it was found to be on `images` (N, ...), a batch as they will come.

    What was found is remembered for batches that are no larger, as long as modules, modes, parameters and the
    attributes that no pass writes stay the same.

    Raises:
        ValueError: an example's output depends on the rest of its batch, or a draw cannot be keyed.
    """
    if isinstance(model, Keyed):
        new, few = model._saplab_randomness is None, images[:1].detach()
        own = _learnt(model, images)
        if new:  # what a first pass sets for good is set, as in a network that was rehearsed itself
            with torch.no_grad(), drawing(pass_streams(stream_key(0), 0, torch.arange(len(few)))):
                model(few.clone())
        probabilities = model._saplab_probabilities
        bare = probabilities and not isinstance(model, Logarithm)
        runs: nn.Module = dressed(model, Logarithm, model._saplab_key) if bare else model
        return runs, Observed(own, probabilities=probabilities, trains=model.training, written=own.written)
    known = _known.get(model)
    if known is None or not known.fits(model, images):
        _refuse_repeated(model, images)
        observed = checked(observe(model, images))
        runs, marks = readied(model, observed), _marks(model, observed)
        shape, count = tuple(images.shape[1:]), min(len(images), LARGE)
        known = _known[model] = _Known(marks, shape, None if runs is model else runs, observed, count)
    return model if known.runs is None else known.runs, known.observed  # a compiled one has no truth value


def _refuse_repeated(model: nn.Module, images: Tensor) -> None:
    """Refuse a network that calls defended or `Stochastic` parts more than once a pass, all with the same draws."""
    parts = [part for part in dresses(model) if part is not model]
    if not parts or hasattr(model, "_orig_mod") or len(images) == 0:  # hooks would compile a network again
        return
    calls: list[nn.Module] = []
    hooks = [part.register_forward_pre_hook(lambda part, _: calls.append(part)) for part in parts]
    few = images[:1].detach()
    try:
        for _ in range(2):  # in a first pass parts are found out, which calls them as well
            calls.clear()
            with torch.no_grad(), drawing(pass_streams(stream_key(0), 0, torch.arange(len(few)))):
                model(few.clone())
    finally:
        for hook in hooks:
            hook.remove()
    if len(calls) > 1:
        raise ValueError(f"the network calls parts that are defended or saplab.Stochastic {len(calls)} times a pass,"
                         " and all would get the same draws: defend or wrap the whole network instead")  # fmt: skip


def ready(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a network as saplab runs it, and say so where that is another than it was given; errors as `learn`."""
    new = model not in _known
    runs, observed = learn(model, images)
    for note in observed.notes if new and not isinstance(model, Keyed) else ():
        _LOG.warning(note)
    return runs


def trust(model: nn.Module) -> nn.Module:
    """Return a network that is known to run as it is."""
    known = _known.get(model)
    if known is not None and known.watched:
        _known[model] = replace(known, shape=None, before=known.before or known)
    else:
        _known[model] = _Known(_marks(model), None, None, Observed(), watched=False)
    return model


@contextmanager
def remembered(model: nn.Module) -> Iterator[None]:
    """Put back afterwards what is known of a network, which is trusted with all shapes and batches inside a run."""
    try:
        yield
    finally:
        known = _known.get(model)
        if known is not None and known.before is not None:
            _known[model] = known.before


def _marks(model: nn.Module, observed: Observed | None = None) -> tuple[Any, ...]:
    """Return by what a network is the same: its modules and parameters, and attributes where it has been observed."""
    tree = tuple((id(m), type(m), m.training, *map(id, m._parameters.values())) for m in model.modules())
    if observed is None:
        return tree
    return tree, [(name, _mark(value)) for name, value in values(model) if not is_part(name, observed.written)]


def _mark(value: Any) -> Any:
    """Return what tells an attribute's value from others: at once for plain ones, else by all that it holds."""
    kind = type(value)
    if kind in _PLAIN:
        return kind, repr(value) if kind is float else value
    if kind is tuple and all(type(one) in _PLAIN for one in value):
        return tuple(map(_mark, value))
    return () if kind is list and value and all(map(is_announcement, value)) else contents_text(value)


def checked(observed: Observed) -> Observed:
    """Return what a network was found to be; ValueError where an example's output depends on the rest of its batch."""
    if not observed.alone:
        raise ValueError("an example's output depends on the rest of its batch, as with batch-norm in training mode or"
                         " without running statistics, so that no accuracy is its own; call .eval() first")  # fmt: skip
    return observed

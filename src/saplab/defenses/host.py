"""Draws of generators outside PyTorch's operators, as functions of (seed, pass): NumPy's, Python's, a network's own.

Their generators are seeded for a pass and put back after it. Where an array of NumPy's grows with the batch, its method
is called once more for each example, which so gets numbers of its own.
"""

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from saplab.defenses.generators import Place, ambient, own_generators, put_back, seed, state_of
from saplab.defenses.keyed import UNSEEN, Numbers
from saplab.rng.streams import derived_key

_one_at_a_time: Final = threading.RLock()  # generators of a process are everybody's

_WHOLE: Final = frozenset({"shuffle", "seed", "get_state", "set_state", "bytes", "spawn", "permutation"})
_DIMENSIONS: Final = frozenset({"rand", "randn"})  # whose arguments are the shape


class Moves:
    """Which of some generators have been drawn from, or seeded, since this was made."""

    def __init__(self, generators: Iterable[Any]) -> None:
        self._generators = tuple(generators)
        self._before = tuple(map(state_of, self._generators))

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the state of each that has moved, None for the others."""
        now = map(state_of, self._generators)
        return tuple(None if a == b else b for a, b in zip(self._before, now, strict=True))


@dataclass(frozen=True)
class Generators:
    """Which generators a forward pass may draw from.

    Attributes:
        places: of those of the network's own.
    """

    places: tuple[Place, ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> "Generators":
        """Find the generators of a network."""
        return cls(own_generators(model))

    @property
    def every(self) -> tuple[Any, ...]:
        """Return those of the process and the network's own, each once."""
        return tuple({id(g): g for g in (*ambient(), *(place.generator for place in self.places))}.values())

    @contextmanager
    def keyed(self, key: int, pass_: int, numbers: Numbers) -> Iterator[Moves]:
        """Seed all generators by (key, pass) while the context is open, then put them back as they were.

        NumPy's arrays that grow with the batch get each example's own of the `numbers`. What the context gives tells
        which generators were moved. PyTorch's operators move its generators only where they draw as they are written.
        """
        own = derived_key(key, pass_) & 0xFFFFFFFF
        with _one_at_a_time, ExitStack() as after:
            every, first = self.every, len(ambient())
            for k, generator in enumerate(every):
                after.callback(put_back(generator))
                seed(generator, own if k < first else derived_key(key, first - 1 - k) & 0xFFFFFFFF ^ own)
                if numbers.watch is not None:
                    numbers.watch.expect(generator)
            after.enter_context(_each_examples(np.random, np.random.mtrand._rand, numbers))
            for place in self.places:
                if place.of_numpy and place.replaceable:
                    place.holder[place.key] = _Proxy(place.generator, numbers)
                    after.callback(place.holder.__setitem__, place.key, place.generator)
            yield Moves(g for g in every if g is torch.default_generator or not isinstance(g, torch.Generator))


@contextmanager
def undrawn(model: nn.Module) -> Iterator[None]:
    """Refuse a network that was found not to be random, and draws all the same."""
    moves = Moves(Generators.of(model).every)
    yield
    if any(end is not None for end in moves.ends):
        raise ValueError(UNSEEN)


class _Proxy:
    """A NumPy generator whose arrays that grow with the batch have each example's own numbers."""

    def __init__(self, generator: Any, numbers: Numbers) -> None:
        self._generator, self._numbers = generator, numbers

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._generator, name)
        fit = callable(method) and not name.startswith("_") and name not in _WHOLE
        return _by_example(method, self._generator, self._numbers) if fit else method


@contextmanager
def _each_examples(module: Any, generator: Any, numbers: Numbers) -> Iterator[None]:
    """Let the functions of `np.random` give each example's own numbers in this thread, and the usual ones in others."""
    thread, proxy = threading.get_ident(), _Proxy(generator, numbers)
    kept = {name: f for name, f in vars(module).items() if getattr(f, "__self__", None) is generator}

    def here(name: str, usual: Any) -> Any:
        return lambda *a, **k: getattr(proxy, name)(*a, **k) if threading.get_ident() == thread else usual(*a, **k)

    try:
        for name, usual in kept.items():
            if name not in _WHOLE:
                setattr(module, name, here(name, usual))
        yield
    finally:
        for name, usual in kept.items():
            setattr(module, name, usual)


def _by_example(method: Any, generator: Any, numbers: Numbers) -> Callable[..., Any]:
    """Wrap a method: where its array grows with the batch, draw each entry of that axis from a generator of its own."""

    def call(*args: Any, **kwargs: Any) -> Any:
        watch = numbers.watch
        if watch and watch.seeded(generator):
            return method(*args, **kwargs)
        values = method(*args, **kwargs)
        if watch:
            watch.expect(generator)
        source = numbers.next(np.shape(values), torch.device("cpu")) if np.ndim(values) else None
        with_size = _resized(method, args, kwargs) if source is not None and source.of_examples else None
        if source is None or with_size is None:
            return values
        kind = type(generator)
        parts = [with_size(getattr(_seeded(kind, s), method.__name__), source.rest) for s in source.seeds()]
        return np.stack(parts, axis=source.axis or 0)

    return call


def _seeded(kind: type, seed: int) -> Any:
    return np.random.RandomState(seed) if kind is np.random.RandomState else np.random.default_rng(seed)


def _resized(method: Any, args: Any, kwargs: Any) -> Callable[[Any, tuple[int, ...]], Any] | None:
    """Return a function that calls another generator's method with another size; None where the size is no argument."""
    if method.__name__ in _DIMENSIONS:
        return lambda other, size: other(*size)
    bound = inspect.signature(method).bind(*args, **kwargs)
    if bound.arguments.get("size") is None or any(np.ndim(v) for n, v in bound.arguments.items() if n != "size"):
        return None

    def run(other: Any, size: tuple[int, ...]) -> Any:
        bound.arguments["size"] = size
        return other(*bound.args, **bound.kwargs)

    return run

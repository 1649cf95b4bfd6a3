"""Draws of generators outside PyTorch's operators, as functions of (seed, pass): NumPy's, Python's, a network's own.

Their generators are seeded for a pass and put back after it. Where an array of NumPy's grows with the batch, its method
is called once more for each example, which so gets numbers of its own.
"""

import inspect
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from saplab.defenses.keyed import Numbers
from saplab.rng.streams import derived_key

_one_at_a_time: Final = threading.RLock()  # generators of a process are everybody's

_NUMPY: Final = (np.random.Generator, np.random.RandomState)
_OWN: Final = (*_NUMPY, random.Random)
_WHOLE: Final = frozenset({"shuffle", "seed", "get_state", "set_state", "bytes", "spawn", "permutation"})
_DIMENSIONS: Final = frozenset({"rand", "randn"})  # whose arguments are the shape


@dataclass(frozen=True)
class Generators:
    """Which generators a forward pass may draw from, besides PyTorch's own operators.

    Attributes:
        places: objects and attributes that hold generators of the network's own.
    """

    places: tuple[tuple[Any, str], ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> "Generators":
        """Find the generators that a network's modules, and the files that their classes stand in, hold."""
        modules = list(model.modules())
        files = {id(file): file for file in (sys.modules.get(type(m).__module__) for m in modules) if _is_of_user(file)}
        owners = (*modules, *files.values())
        return cls(tuple((owner, name) for owner in owners for name, value in vars(owner).items() if _is_own(value)))

    @contextmanager
    def keyed(self, key: int, pass_: int, numbers: Numbers) -> Iterator[Callable[[], bool]]:
        """Seed all generators by (key, pass) while the context is open, then put them back as they were.

        NumPy's arrays that grow with the batch get each example's own of the `numbers`. What the context gives returns
        whether some generator was drawn from.
        """
        seed = derived_key(key, pass_) & 0xFFFFFFFF
        with _one_at_a_time, ExitStack() as after:
            for generator in _ambient():
                after.callback(_put_back(generator))
            random.seed(seed)
            global_numpy = np.random.mtrand._rand  # whose methods the functions of np.random are
            global_numpy.seed(seed)
            torch.default_generator.manual_seed(seed)
            after.enter_context(_each_examples(np.random, global_numpy, numbers))
            seeded: list[Any] = [random, global_numpy, torch.default_generator]
            for k, (owner, name) in enumerate(self.places):
                generator = vars(owner)[name]
                stand_in = _like(generator, derived_key(key, -1 - k) & 0xFFFFFFFF ^ seed)
                after.callback(_setting(owner, name, generator))
                vars(owner)[name] = _Proxy(stand_in, numbers) if isinstance(generator, _NUMPY) else stand_in
                seeded.append(stand_in)
            before = list(map(_state, seeded))
            yield lambda: list(map(_state, seeded)) != before


@contextmanager
def undrawn(model: nn.Module) -> Iterator[None]:
    """Refuse a network that was found not to be random, and draws all the same."""
    own = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Generator)]
    generators = (*_ambient(), *own, *(vars(owner)[name] for owner, name in Generators.of(model).places))
    before = list(map(_state, generators))
    yield
    if list(map(_state, generators)) != before:
        raise ValueError("the network drew random numbers, though not on the images on which it was found not to"
                         " be random; wrap it: saplab.Stochastic(model, example=images) that it draws on")  # fmt: skip


def _is_of_user(file: Any) -> bool:
    return file is not None and not file.__name__.startswith(("torch", "saplab", "timm", "numpy", "builtins"))


def _is_own(value: Any) -> bool:
    return isinstance(value, _OWN)


def _state(generator: Any) -> Any:
    """Return a generator's state as something that compares."""
    if generator is random or isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    kind, words, *rest = generator.get_state()
    return (kind, words.tobytes(), *rest)


def _ambient() -> tuple[Any, ...]:
    return random, np.random.mtrand._rand, torch.default_generator


def _put_back(generator: Any) -> Callable[[], Any]:
    if generator is random:
        python = random.getstate()
        return lambda: random.setstate(python)
    state = generator.get_state()
    return lambda: generator.set_state(state)


def _setting(owner: Any, name: str, value: Any) -> Callable[[], Any]:
    return lambda: vars(owner).__setitem__(name, value)


def _like(generator: Any, seed: int) -> Any:
    if isinstance(generator, random.Random):
        return random.Random(seed)
    return np.random.RandomState(seed) if isinstance(generator, np.random.RandomState) else np.random.default_rng(seed)


class _Proxy:
    """A NumPy generator whose arrays that grow with the batch have each example's own numbers."""

    def __init__(self, generator: Any, numbers: Numbers) -> None:
        self._generator, self._numbers = generator, numbers

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._generator, name)
        fit = callable(method) and not name.startswith("_") and name not in _WHOLE
        return _by_example(method, type(self._generator), self._numbers) if fit else method


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


def _by_example(method: Any, kind: type, numbers: Numbers) -> Callable[..., Any]:
    """Wrap a method: where its array grows with the batch, draw each entry of that axis from a generator of its own."""

    def call(*args: Any, **kwargs: Any) -> Any:
        values = method(*args, **kwargs)
        source = numbers.next(np.shape(values), torch.device("cpu")) if np.ndim(values) else None
        with_size = _resized(method, args, kwargs) if source is not None and source.of_examples else None
        if source is None or with_size is None:
            return values
        parts = [with_size(getattr(_seeded(kind, seed), method.__name__), source.rest) for seed in source.seeds()]
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

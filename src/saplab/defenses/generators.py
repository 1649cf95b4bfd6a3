"""Generators of random numbers: which ones a network may draw from, their states, and who has seeded them last."""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import nn

_NUMPY: Final = (np.random.Generator, np.random.RandomState)
_KINDS: Final = (*_NUMPY, random.Random, torch.Generator)
_DEEPEST: Final = 3  # containers and objects around a generator
_LONGEST: Final = 1000  # entries of a container that is looked into
_LIBRARIES: Final = frozenset({"torch", "torchvision", "saplab", "timm", "numpy"})  # their objects hold no own ones
_OTHERS: Final = frozenset(vars(nn.Module())) - {"training"}  # a module's own fields


class Place(NamedTuple):
    """A generator, and where it is kept: `holder[key]`."""

    generator: Any
    holder: Any
    key: Any

    @property
    def replaceable(self) -> bool:
        """Return whether another generator may stand in for it."""
        return not isinstance(self.holder, tuple)

    @property
    def of_numpy(self) -> bool:
        """Return whether it is NumPy's."""
        return isinstance(self.generator, _NUMPY)


def own_generators(model: nn.Module) -> tuple[Place, ...]:
    """Find the generators that a network's modules hold, and the files that their classes stand in.

    Lists, tuples, dictionaries and objects of the user's are looked into.
    """
    modules = list(model.modules())
    files = {id(file): file for file in (sys.modules.get(type(m).__module__) for m in modules) if _is_of_user(file)}
    seen = set(map(id, modules))
    attributes = ({k: v for k, v in vars(m).items() if k not in _OTHERS} for m in modules)
    kept = [place for m, own in zip(modules, attributes, strict=True) for place in _inside(vars(m), own, seen)]
    return (*kept, *(place for file in files.values() for place in _inside(vars(file), vars(file), seen)))


def _inside(holder: Any, entries: Any, seen: set[int], depth: int = 0) -> Iterator[Place]:
    for key, value in list(entries.items() if isinstance(entries, dict) else enumerate(entries)):
        if isinstance(value, _KINDS):
            yield Place(value, holder, key)
        elif depth < _DEEPEST and (inner := _entries(value)) is not None and id(value) not in seen:
            seen.add(id(value))
            yield from _inside(inner, inner, seen, depth + 1)


def _entries(value: Any) -> Any:
    """Return what a container or an object of the user's holds; None for any other value."""
    if isinstance(value, dict | list | tuple):
        return value if len(value) <= _LONGEST else None
    kind = type(value)
    return vars(value) if hasattr(value, "__dict__") and _is_of_user(sys.modules.get(kind.__module__)) else None


def _is_of_user(file: Any) -> bool:
    name = getattr(file, "__name__", "builtins").partition(".")[0]
    return name == "__main__" or not (name in _LIBRARIES or name in sys.stdlib_module_names)


def ambient() -> tuple[Any, ...]:
    """Return the generators of the whole process: Python's, NumPy's and PyTorch's."""
    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return random, np.random.mtrand._rand, torch.default_generator, *cuda


def state_of(generator: Any) -> Any:
    """Return a generator's state as something that compares and hashes."""
    if generator is random or isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    kind, words, *rest = generator.get_state()
    return (kind, words.tobytes(), *rest)


def seed(generator: Any, number: int) -> None:
    """Seed a generator, of whatever kind."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(number)
    elif isinstance(generator, np.random.Generator):
        bits: Any = generator.bit_generator
        bits.state = type(bits)(number).state
    else:
        generator.seed(number)


def put_back(generator: Any) -> Callable[[], Any]:
    """Return a function that puts a generator back into the state that it has now."""
    if generator is random or isinstance(generator, random.Random):
        python = generator.getstate()
        return lambda: generator.setstate(python)
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        state = bits.state
        return lambda: setattr(bits, "state", state)
    kept = generator.get_state()
    return lambda: generator.set_state(kept)


@dataclass
class Watch:
    """Tells in a pass which generators the network itself has seeded, so that their numbers are its author's choice.

    Attributes:
        expected: the state of each generator that there was when the pass began, unless the network seeds it.
    """

    expected: dict[int, Any] = field(default_factory=dict)

    def seeded(self, generator: Any) -> bool:
        """Return whether the network has seeded or made a generator since the pass began."""
        return id(generator) not in self.expected or state_of(generator) != self.expected[id(generator)]

    def expect(self, generator: Any) -> None:
        """Take a generator's state as one that the network has not chosen."""
        self.expected[id(generator)] = state_of(generator)


@dataclass
class Noting(Watch):
    """Leaves all draws as the network makes them, and notes the states of generators before them.

    Attributes:
        states: hashes of them.
        after: puts generators back that nobody knew of.
    """

    states: set[int] = field(default_factory=set)
    after: dict[int, Callable[[], Any]] = field(default_factory=dict)

    def seeded(self, generator: Any) -> bool:
        """Note the state of a generator."""
        self.states.add(hash(state_of(generator)))
        if id(generator) not in self.expected:
            self.after.setdefault(id(generator), put_back(generator))
        return True

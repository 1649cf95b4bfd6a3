"""Named kinds of objects: the one place where text and plain values become objects, and objects text."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

from saplab.system.settings import (
    Setting,
    arguments_of,
    is_frozen,
    is_function,
    nested_fields,
    settings_of,
    text_of,
    unusual_settings,
)
from saplab.system.source import callable_digest, class_digest
from saplab.system.words import did_you_mean, meant

T = TypeVar("T")

_CALL: Final = re.compile(r"(?P<path>[\w.]+:[A-Za-z_][\w.]*)(?:\((?P<arguments>.*)\))?", re.DOTALL)
_PLUS: Final = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?<![0-9.][eE])\+""")  # quoted texts hide theirs
_SPELT: Final = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z_ -]*?)[-_ ]?(?:\((?P<brackets>.*)\)|:?(?P<number>[\d.]+)|:(?P<rest>.*))?"
)
_FUNCTION: Final = " source"  # after the name of a setting that is a function; no field can be called that
_SOURCE: Final = f"class{_FUNCTION}"


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A class and the settings that a text gives it, still as texts or literals, by name."""

    kind: type[T]
    settings: dict[str, Any]


class Registry(Generic[T]):
    """Classes by name, all of one kind: frozen dataclasses whose fields are their settings.

    A class is written ``NAME``, ``NAME:SETTINGS`` or, where it has no name, ``package.module:Class(SETTINGS)``. Fields
    of a nested dataclass are written beside the class's own. Errors and options call the classes by their `kind`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def add(self, name: str, cls: type[T]) -> None:
        """Add a class under a name; TypeError if it is no frozen dataclass, ValueError for a bad or taken name."""
        if not is_frozen(cls):
            raise TypeError(f"{cls.__name__} must be a frozen dataclass: write @dataclass(frozen=True) below @register")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise ValueError(f"`name` must be lower-case letters, digits and hyphens, got {name!r}")
        known = self._classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"`name` {name!r} is registered already, by {known.__module__}.{known.__qualname__}")
        self._classes[name] = cls

    @property
    def names(self) -> tuple[str, ...]:
        """Return the registered names, in alphabetical order."""
        return tuple(sorted(self._classes))

    def find(self, name: str) -> type[T]:
        """Return the class that a name or ``package.module:Class`` stands for; ValueError where there is none."""
        if name in self._classes:
            return self._classes[name]
        if ":" not in name:
            raise ValueError(self._unknown(name))
        found: Any = import_object(name)
        if not (isinstance(found, type) and is_frozen(found) and getattr(found, "registry", None) is self):
            base = f"saplab.{self.kind.capitalize()}"
            raise ValueError(f"`{self.kind}` {name!r} is not a frozen dataclass derived from {base}")
        return cast(type[T], found)

    def _unknown(self, text: str) -> str:
        wanted = f"`{self.kind}` must be one of {', '.join(self.names)} or package.module:Class(…), got {text!r}"
        return wanted + instead(text, self.names)

    def name_of(self, cls: type[T]) -> str:
        """Return the name of a class; ``package.module:Class`` where it was not registered."""
        named = (name for name, known in self._classes.items() if known is cls)
        return next(named, f"{cls.__module__}:{cls.__qualname__}")

    def read(self, text: str) -> Reading[T]:
        """Read one object's text; ValueError for an unknown class or settings that are not written ``NAME=VALUE``."""
        name, colon, settings = text.partition(":")
        if name in self._classes:
            if colon and not settings:
                raise ValueError(f"`{self.kind}` {text!r} needs a value after its colon")
            return Reading(self._classes[name], self._settings(self._classes[name], settings))
        if call := _CALL.fullmatch(text):
            kind = self.find(call["path"])
            return Reading(kind, arguments_of(kind, call["arguments"] or ""))
        raise ValueError(self._unknown(text))

    def _settings(self, kind: type[T], text: str) -> dict[str, Any]:
        settings = settings_of(kind)
        if settings and text and "=" not in text and "," not in text and not settings[0].of:
            return {settings[0].name: text}
        pairs = [part.rpartition("=") for part in text.split(",")] if text else []
        by_name = {name.strip(): value.strip() for name, _, value in pairs}
        if not all(sign for _, sign, _ in pairs) or len(by_name) < len(pairs):
            raise ValueError(f"`{self.kind}` settings are written NAME=VALUE, none of them twice, got {text!r}")
        if by_name and settings and settings[0].takes_patterns and not by_name.keys() & {s.name for s in settings}:
            return {settings[0].name: by_name}
        return by_name

    def make(self, kind: type[T], settings: Mapping[str, Any], *defaults: Any) -> T:
        """Make an object of a class from its settings, texts or values by name.

        Objects in `defaults` take the place of the default of a nested field of their type. Raises ValueError for an
        unknown or missing setting, or a value that the class refuses.
        """
        known = {setting.name: setting for setting in settings_of(kind)}
        if unknown := sorted(settings.keys() - known.keys()):
            have = ", ".join(known) or "none"
            hint = "; settings are joined by commas" if ";" in unknown[0] else did_you_mean(unknown[0], known)
            raise ValueError(f"`{self.kind}` {self.name_of(kind)} has no setting {unknown[0]!r}; it has {have}{hint}")
        given = {name: self._typed(known[name], value) for name, value in settings.items()}
        if missing := [name for name in known if known[name].default is MISSING and name not in given]:
            raise ValueError(f"`{self.kind}` {self.name_of(kind)} needs a value for {', '.join(missing)}")
        own = {name: value for name, value in given.items() if not known[name].of}
        for name, nested, default in nested_fields(kind):
            inner = {key: value for key, value in given.items() if known[key].of == name}
            base = next((value for value in defaults if type(value) is nested), default)
            own[name] = nested(**inner) if base is MISSING else replace(base, **inner)
        return kind(**own)

    def _typed(self, setting: Setting, value: Any) -> Any:
        try:
            return setting.typed(value)
        except ValueError as error:
            raise ValueError(f"`{self.kind}` setting {error}") from None

    def parse(self, text: str) -> T:
        """Return the object that a text describes; ValueError as `read` and `make`."""
        reading = self.read(text)
        return self.make(reading.kind, reading.settings)

    def spec(self, value: T) -> str:
        """Return the text that `parse` reads: the settings that are not the class's defaults."""
        kind = type(value)
        name, settings = self.name_of(kind), settings_of(kind)
        shown = {s.name: s.value(value) for s in settings} if len(settings) == 1 else dict(unusual_settings(value))
        text = None if ":" in name else text_of(shown, settings)
        if text is None:
            arguments = ", ".join(f"{key}={found!r}" for key, found in shown.items())
            return f"{kind.__module__}:{kind.__qualname__}({arguments})"
        return f"{name}:{text}" if text else name

    def encode(self, value: T) -> dict[str, Any]:
        """Return an object as plain values: its class's name, all settings, and what its own source hashes to.

        Functions among the settings are named ``package.module:function``, and have their source beside them. It is
        left out for classes and functions of saplab, whose numbers have versions.

        Raises:
            ValueError: a function that cannot be named, or a setting that is no plain value.
        """
        settings = {s.name: s.value(value) for s in settings_of(type(value))}
        for name, given in settings.items():
            self._check_plain(name, given)
        return {"class": self.name_of(type(value)), **_sources(value), **settings}

    def _check_plain(self, name: str, value: Any) -> None:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            wanted = "finite numbers, text, lists or dicts of these, to be named in results"
            raise ValueError(f"`{self.kind}` setting `{name}` must be {wanted}, got {value!r:.80}") from None

    def decode(self, values: Mapping[str, Any]) -> T:
        """Return the object that `encode` described; ValueError for other settings or a class that has changed."""
        settings = dict(values)
        kind = self.find(str(settings.pop("class", "")))
        if settings.pop(_SOURCE, "") != class_digest(kind):
            raise ValueError(f"the source of `{self.kind}` {self.name_of(kind)} has changed since this was stored")
        stored = {name: settings.pop(name) for name in list(settings) if name.endswith(_FUNCTION)}
        found = self.make(kind, settings)
        now = _sources(found)
        for name in {**stored, **now}:
            if name != _SOURCE and stored.get(name) != now.get(name):
                what = f"{name.removesuffix(_FUNCTION)} of `{self.kind}` {self.name_of(kind)}"
                raise ValueError(f"the source of the {what} has changed since this was stored")
        return found


def _sources(value: Any) -> dict[str, str]:
    """Return what the source of an object's class, and of functions among its settings, hashes to."""
    found = {_SOURCE: class_digest(type(value))}
    for setting in settings_of(type(value)):
        if is_function(own := setting.of_owner(value)):
            found[f"{setting.name}{_FUNCTION}"] = callable_digest(own)
    return {name: digest for name, digest in found.items() if digest}


class Named:
    """What classes of a registry have in common. Subclasses are frozen dataclasses."""

    registry: ClassVar[Registry[Any]]

    @property
    def spec(self) -> str:
        """Return the text that describes this object on the command line and in studies."""
        return self.registry.spec(self)

    @property
    def registered_name(self) -> str:
        """Return the name of the object's class in its registry; ``package.module:Class`` where it has none."""
        return self.registry.name_of(type(self))


C = TypeVar("C", bound=type[Named])


def register(name: str) -> Callable[[C], C]:
    """Register a defence or an attack under the name that text uses for it: on the command line, in studies and keys.

    Examples:
        >>> @saplab.register("gaussian-input")
        ... @dataclass(frozen=True)
        ... class GaussianInput(saplab.Defense):
        ...     std: float
        ...     def input(self, x, draw):
        ...         return x + self.std * draw.normal(x.shape)
    """

    def add(cls: C) -> C:
        cls.registry.add(name, cls)
        return cls

    return add


def instead(text: str, names: Iterable[str], number: str = "") -> str:
    """Return how to write what somebody may have meant by a text, to be added to an error: "; write pgd:steps=5".

    Args:
        text: a name in another spelling, its settings in brackets, or a number without a colon.
        names: that are known.
        number: the setting that a bare number is; the only one by default.
    """
    if (parts := _SPELT.fullmatch(text)) is None or not (known := meant(parts["name"], names)):
        return ""
    bare = parts["number"] and (f"{number}={parts['number']}" if number else parts["number"])
    settings = (parts["brackets"] or bare or parts["rest"] or "").replace(" ", "")
    return f"; write {known}{':' if settings else ''}{settings}"


def split_sum(text: str) -> list[str]:
    """Split ``a:1+b:2`` at its plus signs, but not inside quotes or numbers such as ``1e+5``."""
    cuts = [found.start() for found in _PLUS.finditer(text) if found[0] == "+"]
    return [text[a + 1 : b].strip() for a, b in pairwise([-1, *cuts, len(text)])] if text else []


_RUN: Final = "request.json"  # by which a folder of results is known

_closed: ContextVar[Path | None] = ContextVar("_closed", default=None)


@contextmanager
def no_imports_from(folder: Path) -> Iterator[None]:
    """Import no module from a folder, which may be somebody else's, until the context is left."""
    token = _closed.set(folder.resolve())
    try:
        yield
    finally:
        _closed.reset(token)


def import_object(path: str) -> Any:
    """Import ``package.module:name``, from the working folder last of all; ValueError where there is none."""
    module, _, name = path.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    every, closed = list(sys.path), _closed.get()
    if closed is not None:
        sys.path[:] = [place for place in every if not Path(place or ".").resolve().is_relative_to(closed)]
    try:
        if closed is not None:
            _refuse_inside(module, closed)
        return attrgetter(name)(import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        hint = "; it is of a script: put it into a module" if module == "__main__" else ""
        raise ValueError(f"{path} cannot be imported: {error}{hint}") from None
    finally:
        if closed is not None:
            sys.path[:] = every


def _refuse_inside(module: str, closed: Path) -> None:
    """Refuse a module that a closed folder, or another run's, holds, by what is found for it and for its packages.

    A folder without ``__init__.py`` is a package too, so that a path from the working folder may lead into a run.

    Raises:
        ImportError: it is there, and none of it has been run.
    """
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        if name in sys.modules and sys.modules[name].__spec__ is None:  # a script, which runs already
            continue
        spec = find_spec(name)  # runs the packages around it, which were looked at before
        if spec is None:
            return
        for place in filter(None, (spec.origin, *(spec.submodule_search_locations or ()))):
            path = Path(place).resolve()
            if path.is_relative_to(closed) or any((around / _RUN).exists() for around in (path, *path.parents)):
                raise ImportError(f"{path} lies in a folder of results, from which nothing is run")

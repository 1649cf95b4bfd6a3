"""Named kinds of objects: the one place where text and plain values become objects, and objects text."""

import ast
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar, get_args, get_type_hints

import msgspec

T = TypeVar("T")

_CALL: Final = re.compile(r"(?P<path>[\w.]+:[A-Za-z_]\w*)(?:\((?P<arguments>.*)\))?", re.DOTALL)
_SOURCE: Final = "class source"  # no field can be called that
_PLUS: Final = re.compile(r"(?<![0-9.][eE])\+(?![^(]*\))")


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A class and the settings that a text gives it, still as texts or literals, by name."""

    kind: type[T]
    settings: dict[str, Any]


class Registry(Generic[T]):
    """Classes by name, all of one kind: frozen dataclasses whose fields are their settings.

    A class is written ``NAME``, ``NAME:SETTINGS`` or, where it has no name, ``package.module:Class(SETTINGS)``. Fields
    of a nested dataclass are written beside the class's own.

    Args:
        kind: what the classes are, for errors and command line options ("defense").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def add(self, name: str, cls: type[T]) -> None:
        """Add a class under a name.

        Raises:
            ValueError: the name is malformed or belongs to another class.
        """
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise ValueError(f"`name` must be lower-case letters, digits and hyphens, got {name!r}")
        known = self._classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"`name` {name!r} is registered already, by {known.__module__}.{known.__qualname__}")
        self._classes[name] = cls

    @property
    def names(self) -> tuple[str, ...]:
        """Return the registered names, in the order of registration."""
        return tuple(self._classes)

    def find(self, name: str) -> type[T]:
        """Return the class with a name, or the class that ``package.module:Class`` names.

        Raises:
            ValueError: there is no such class.
        """
        if name in self._classes:
            return self._classes[name]
        if ":" not in name:
            known = ", ".join(self.names)
            raise ValueError(f"`{self.kind}` must be one of {known} or package.module:Class, got {name!r}")
        found = import_object(name)
        if not (inspect.isclass(found) and is_dataclass(found) and getattr(found, "registry", None) is self):
            raise ValueError(f"`{self.kind}` {name!r} is not a dataclass derived from saplab.{self.kind.capitalize()}")
        return found

    def name_of(self, cls: type[T]) -> str:
        """Return the name of a class; ``package.module:Class`` where it was not registered."""
        named = (name for name, known in self._classes.items() if known is cls)
        return next(named, f"{cls.__module__}:{cls.__qualname__}")

    def read(self, text: str) -> Reading[T]:
        """Read one object's text; see the class.

        Raises:
            ValueError: an unknown class, or settings that are not written ``NAME=VALUE``.
        """
        name, _, settings = text.partition(":")
        call = _CALL.fullmatch(text)
        if name not in self._classes and call:
            kind = self.find(call["path"])
            return Reading(kind, _arguments(kind, call["arguments"] or "", text))
        if text.endswith(":"):
            raise ValueError(f"`{self.kind}` {text!r} needs a value after its colon")
        return Reading(kind := self.find(name), self._settings(kind, settings))

    def _settings(self, kind: type[T], text: str) -> dict[str, Any]:
        if not text:
            return {}
        known, first = set(setting_names(kind)), _first(kind)
        pairs = [part.rpartition("=") for part in text.split(",")]
        by_name = {name.strip(): value.strip() for name, sign, value in pairs if sign}
        if first and len(pairs) == 1 and not by_name:
            return {first: text}
        if first and len(by_name) == len(pairs) and _takes_patterns(kind, first) and not by_name.keys() & known:
            return {first: by_name}
        if len(by_name) < len(pairs):
            raise ValueError(f"`{self.kind}` settings are written NAME=VALUE, got {text!r}")
        return by_name

    def make(self, kind: type[T], settings: Mapping[str, Any], *defaults: Any) -> T:
        """Make an object from its settings, as texts or values.

        Args:
            kind: its class.
            settings: by name, those of nested dataclasses beside its own.
            defaults: objects that take the place of the default of a nested field of their type.

        Raises:
            ValueError: an unknown or missing setting, or a value that the class refuses.
        """
        if unknown := sorted(settings.keys() - set(setting_names(kind))):
            known = ", ".join(setting_names(kind)) or "none"
            raise ValueError(f"`{self.kind}` {self.name_of(kind)} has no setting {unknown[0]!r}; it has {known}")
        own: dict[str, Any] = {}
        for field, hint in _fields(kind):
            if is_dataclass(hint):
                base = next((value for value in defaults if type(value) is hint), _default(field))
                given = {f.name: settings[f.name] for f, _ in _fields(hint) if f.name in settings}
                own[field.name] = replace(base, **{n: self._typed(hint, n, v) for n, v in given.items()})
            elif field.name in settings:
                own[field.name] = self._typed(kind, field.name, settings[field.name])
        try:
            return kind(**own)
        except TypeError as error:
            raise ValueError(f"`{self.kind}` {self.name_of(kind)} needs a value: {_missing(error)}") from None

    def _typed(self, kind: Any, name: str, value: Any) -> Any:
        hint = get_type_hints(kind)[name]
        try:
            return msgspec.convert(value, _text_types(hint) if isinstance(value, str) else hint, strict=False)
        except msgspec.ValidationError:
            raise ValueError(f"`{self.kind}` setting {name} must be {_type_words(hint)}, got {value!r}") from None
        except TypeError:  # a type of the user's that msgspec does not know
            return value

    def parse(self, text: str) -> T:
        """Return the object that a text describes.

        Raises:
            ValueError: as `read` and `make`.
        """
        reading = self.read(text)
        return self.make(reading.kind, reading.settings)

    def encode(self, value: T) -> dict[str, Any]:
        """Return an object as plain values: its class's name, all settings, and what its own source hashes to.

        The source is left out for classes of saplab, whose numbers have versions.
        """
        kind = type(value)
        source = {} if kind.__module__.startswith("saplab.") else {_SOURCE: source_digest(kind)}
        return {"class": self.name_of(kind), **source, **_flat(value)}

    def decode(self, values: Mapping[str, Any]) -> T:
        """Return the object that `encode` described.

        Raises:
            ValueError: an unknown class, other settings, or a class whose source has changed.
        """
        settings = dict(values)
        kind = self.find(str(settings.pop("class", "")))
        source = settings.pop(_SOURCE, None)
        if source is not None and source != source_digest(kind):
            raise ValueError(f"the source of `{self.kind}` {self.name_of(kind)} has changed since this was stored")
        return self.make(kind, settings)

    def spec(self, value: T) -> str:
        """Return the text that `parse` reads: the settings that are not the class's defaults."""
        kind = type(value)
        name, given, first = self.name_of(kind), dict(unusual_settings(value)), _first(kind)
        if setting_names(kind) == [first]:
            given = {first: getattr(value, first)}
        if ":" in name:
            return f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
        if first and list(given) == [first]:
            return f"{name}:{_text(given[first])}"
        return f"{name}:{','.join(f'{key}={_text(value)}' for key, value in given.items())}" if given else name


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

    Example:
        >>> @saplab.register("gaussian-input")
        ... @dataclass(frozen=True)
        ... class GaussianInput(saplab.Defense):
        ...     std: float
        ...     def input(self, x, draw):
        ...         return x + self.std * draw.normal(x.shape)
    """

    def add(cls: C) -> C:
        if not is_dataclass(cls):
            raise TypeError(f"{cls.__name__} must be a dataclass: write @dataclass(frozen=True) below @register")
        cls.registry.add(name, cls)
        return cls

    return add


def split_sum(text: str) -> list[str]:
    """Split ``a:1+b:2`` at its plus signs, but not inside brackets or numbers such as ``1e+5``."""
    return [part.strip() for part in _PLUS.split(text)] if text else []


def import_object(path: str) -> Any:
    """Import ``package.module:name``; modules of the working folder are found after all others.

    Raises:
        ValueError: there is no such module or name.
    """
    module, _, name = path.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} cannot be imported: {error}") from None


@cache
def source_digest(cls: type) -> str:
    """Return a hash of the source of a class's module; of the class alone where it has no file."""
    try:
        module = inspect.getmodule(cls)
        source = inspect.getsource(module if module is not None and hasattr(module, "__file__") else cls)
    except (OSError, TypeError):
        source = cls.__qualname__
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def setting_names(kind: Any) -> list[str]:
    """Name the settings of a class, those of nested dataclasses in their place."""
    return [name for field, hint in _fields(kind) for name in (setting_names(hint) if is_dataclass(hint) else [field.name])]


def _fields(kind: Any) -> list[tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in fields(kind) if field.init]


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _flat(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, hint in _fields(type(value)):
        own = getattr(value, field.name)
        found.update(_flat(own) if is_dataclass(hint) else {field.name: _as_hinted(own, hint)})
    return found


def _as_hinted(value: Any, hint: Any) -> Any:
    """Return a plain value in the one form that equal settings share: whole numbers as floats where a float is meant."""
    if isinstance(value, Mapping):
        return {name: _as_hinted(inner, float) for name, inner in value.items()}
    is_float = hint is float or float in get_args(hint)
    return float(value) if is_float and type(value) is int and int not in get_args(hint) else value


def unusual_settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the settings that differ from the class's defaults."""
    for field, hint in _fields(type(value)):
        own = getattr(value, field.name)
        if is_dataclass(hint):
            yield from unusual_settings(own)
        elif own != _default(field):
            yield field.name, own


def _first(kind: Any) -> str:
    """Return the setting that a text may give without its name; "" where there is none."""
    field, hint = next(iter(_fields(kind)), (None, None))
    return field.name if field is not None and not is_dataclass(hint) else ""


def _takes_patterns(kind: Any, name: str) -> bool:
    return any(getattr(arg, "__origin__", None) is Mapping for arg in get_args(get_type_hints(kind)[name]))


def _arguments(kind: Any, text: str, whole: str) -> dict[str, Any]:
    """Read the arguments of a call as Python writes them, literals only."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        names = [field.name for field, _ in _fields(kind)]
        given = dict(zip(names, map(ast.literal_eval, call.args), strict=False))
        return given | {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise ValueError(f"the arguments of {whole!r} must be literals, such as Class(std=0.1)") from None


def _text_types(hint: Any) -> Any:
    """Leave out mappings, which a text cannot be, from a union."""
    plain = [arg for arg in get_args(hint) if getattr(arg, "__origin__", None) is not Mapping]
    return plain[0] if len(plain) == 1 and len(get_args(hint)) > 1 else hint


def _type_words(hint: Any) -> str:
    types = set(get_args(hint)) or {hint}
    if all(isinstance(choice, str) for choice in types):
        return f"one of {', '.join(map(str, get_args(hint)))}"
    words = ((bool, "true or false"), (int, "a whole number"), (float, "a number"))
    return next((text for kind, text in words if kind in types), getattr(hint, "__name__", str(hint)))


def _missing(error: TypeError) -> str:
    names = re.findall(r"'(\w+)'", str(error))
    return ", ".join(names) or str(error)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{pattern}={_text(number)}" for pattern, number in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)

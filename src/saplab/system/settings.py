"""The settings of a frozen dataclass: its fields and those of dataclasses nested in it, as values and as text."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache
from numbers import Integral, Real
from operator import attrgetter
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from saplab.system.words import did_you_mean

_WORD: Final = re.compile(r"[^\s,=+:()'\"]+")  # a text that needs no quotes


@dataclass(frozen=True)
class Setting:
    """One setting of a class."""

    name: str
    hint: Any  # its type
    default: Any  # `dataclasses.MISSING` where a value must be given
    of: str = ""  # name of the class's own field whose dataclass the setting belongs to; "" for a field of the class

    def of_owner(self, owner: Any) -> Any:
        """Return the setting's value in an object of the class, as it is."""
        return getattr(getattr(owner, self.of) if self.of else owner, self.name)

    def value(self, owner: Any) -> Any:
        """Return the setting's value in an object of the class, as a plain one."""
        return _plain(self.of_owner(owner), self.hint)

    def typed(self, value: Any) -> Any:
        """Return the value that a text, a literal or a decoded value stands for; ValueError for another type."""
        try:
            return msgspec.convert(value, self._text_hint if isinstance(value, str) else self.hint, strict=False)
        except msgspec.ValidationError:
            choices = [part for part in _parts(self.hint) if isinstance(part, str)]
            near = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise ValueError(f"{self.name} must be {_type_words(self.hint)}, got {value!r}{near}") from None
        except TypeError:  # a type of the user's that msgspec does not know
            return value

    @property
    def takes_patterns(self) -> bool:
        """Return whether the value may be a mapping of name patterns."""
        return any(get_origin(arg) is Mapping for arg in get_args(self.hint))

    @property
    def _text_hint(self) -> Any:
        """Leave out mappings, which a text cannot be, from a union."""
        plain = [arg for arg in get_args(self.hint) if get_origin(arg) is not Mapping]
        return plain[0] if len(plain) == 1 and len(get_args(self.hint)) > 1 else self.hint


def settings_of(kind: Any) -> tuple[Setting, ...]:
    """Return the settings of a class, those of nested dataclasses in their place."""
    found: list[Setting] = []
    for field, hint in _fields(kind):
        default = _default(field)
        if is_dataclass(hint):
            found += [
                replace(one, of=field.name, default=one.default if default is MISSING else getattr(default, one.name))
                for one in settings_of(hint)
            ]
        else:
            found.append(Setting(field.name, hint, default))
    return tuple(found)


def nested_fields(kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, class and default of the fields that are dataclasses themselves."""
    return ((field.name, hint, _default(field)) for field, hint in _fields(kind) if is_dataclass(hint))


def unusual_settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the settings that differ from the class's defaults."""
    found = ((setting, setting.value(value)) for setting in settings_of(type(value)))
    return ((setting.name, own) for setting, own in found if own != setting.default)


def is_frozen(cls: Any) -> bool:
    """Return whether a class is a frozen dataclass."""
    return is_dataclass(cls) and bool(getattr(cls, "__dataclass_params__").frozen)  # noqa: B009


@cache
def _fields(kind: Any) -> list[tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in fields(kind) if field.init]


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _plain(value: Any, hint: Any) -> Any:
    """Return NumPy's numbers as Python's, whole numbers as floats where those are meant, functions as their paths."""
    if isinstance(value, Mapping):
        return {key: _plain(one, hint) for key, one in value.items()}
    if is_function(value):
        return path_of(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) and float not in (hint, *get_args(hint)) else float(value)


def is_function(value: Any) -> bool:
    """Return whether a setting's value is a function or anything else that is called."""
    return callable(value) and not isinstance(value, type)


def path_of(function: Any) -> str:
    """Return ``package.module:function``; ValueError for a function that is not found there, such as a lambda."""
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", "")
    try:
        found = attrgetter(name)(sys.modules[module])
    except (AttributeError, KeyError):
        found = None
    if found is not function:
        got = f"{module}:{name}" if name else repr(function)
        raise ValueError(f"a function must be defined at the top of a module to be named in results, got {got}")
    return f"{module}:{name}"


def _parts(hint: Any) -> list[Any]:
    """Return the types and choices of a hint."""
    return [part for arg in get_args(hint) for part in (get_args(arg) if get_origin(arg) is Literal else (arg,))]


def _type_words(hint: Any) -> str:
    parts = _parts(hint)
    types = set(parts) or {hint}
    if all(isinstance(choice, str) for choice in types):
        return f"one of {', '.join(parts)}"
    words = ((bool, "true or false"), (int, "a whole number"), (float, "a number"))
    return next((text for kind, text in words if kind in types), getattr(hint, "__name__", str(hint)))


def arguments_of(kind: Any, text: str) -> dict[str, Any]:
    """Read the arguments of a call as Python writes them; ValueError but for literals, each given once."""
    names = [setting.name for setting in settings_of(kind)]
    try:
        call: Any = ast.parse(f"f({text})", mode="eval").body
        pairs = [*zip(names, call.args, strict=False), *((keyword.arg, keyword.value) for keyword in call.keywords)]
        given = {str(name): ast.literal_eval(value) for name, value in pairs}
        if len(given) == len(call.args) + len(call.keywords):
            return given
    except (SyntaxError, ValueError, TypeError, AttributeError):
        pass
    raise ValueError(f"arguments must be literals, each given once, such as Class(std=0.1), got ({text})")


def text_of(shown: Mapping[str, Any], settings: tuple[Setting, ...]) -> str | None:
    """Return settings as a registry reads them after a name and a colon; None where values need a call's quotes."""
    if settings and not settings[0].of and list(shown) == [settings[0].name]:
        (value,) = shown.values()
        if not isinstance(value, Mapping):
            return _word(value)
        if value.keys() & {setting.name for setting in settings}:
            return None
        shown = value
    words = {key: _word(value) for key, value in shown.items() if _WORD.fullmatch(key)}
    if len(words) < len(shown) or None in words.values():
        return None
    return ",".join(f"{key}={word}" for key, word in words.items())


def _word(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float | int):
        return repr(value).removesuffix(".0")
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None

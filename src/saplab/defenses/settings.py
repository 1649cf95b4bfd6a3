"""A defence's number: one for all, or one for each name pattern."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

Setting = float | Mapping[str, float]


def setting_at(setting: Setting, name: str) -> float | None:
    """Give the number for the site or parameter of that name: the first pattern that matches; None for no match."""
    if not isinstance(setting, Mapping):
        return setting
    return next((value for pattern, value in setting.items() if fnmatchcase(name, pattern)), None)


def check_setting(field: str, setting: Setting, requirement: str, allowed: Callable[[float], bool]) -> None:
    """Refuse a number that is not allowed.

    Raises:
        ValueError: it says `field`, the `requirement` and what came.
    """
    values = setting.values() if isinstance(setting, Mapping) else (setting,)
    if not values:
        raise ValueError(f"`{field}` must hold at least one pattern, got none")
    for value in values:
        if not allowed(value):
            raise ValueError(f"`{field}` must be {requirement}, got {value}")

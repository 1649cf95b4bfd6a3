"""Whole numbers that people choose: of passes, steps, tries."""

from numbers import Integral
from typing import Any, Final

MOST: Final = 2**31 - 1  # numbers of passes from here on belong to questions (`saplab.attacks.lost`)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no integer, by a TypeError, or outside `least` .. `MOST`, by a ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer, got {value!r}")
    if int(value) < least:
        raise ValueError(f"`{name}` must be >= {least}, got {value}")
    if int(value) > MOST:
        raise ValueError(f"`{name}` must be at most {MOST}, got {value}")

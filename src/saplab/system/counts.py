"""Whole numbers that people choose: of passes, steps, tries; seeds."""

from numbers import Integral
from typing import Any, Final

MOST: Final = 2**31 - 1  # numbers of passes from here on belong to questions (`saplab.attacks.lost`)
MOST_CELLS: Final = 250_000


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no integer, by a TypeError, or outside `least` .. `MOST`, by a ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer, got {value!r}")
    if int(value) < least:
        raise ValueError(f"`{name}` must be >= {least}, got {value}")
    if int(value) > MOST:
        raise ValueError(f"`{name}` must be at most {MOST}, got {value}")


def check_cells(number: int) -> None:
    """Refuse more cells than a folder is made for: planning them alone would take hours."""
    if number > MOST_CELLS:
        raise ValueError(f"a run must have at most {MOST_CELLS:,} cells, got {number:,}")


def check_seed(seed: int) -> None:
    """Refuse a seed that generators do not take."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be in 0 .. 2**63 - 1, got {seed}")

"""Labels by the names of classes: those of a folder of pictures against those of a network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch

from saplab.data.dataset import Dataset

_LISTED: Final = 3


def matched(data: Dataset, names: Sequence[str], listed: bool = True) -> tuple[Dataset, str]:
    """Return data with the labels and names of other classes, such as a network's, and what was done, in words.

    Args:
        data: images whose `classes` have names, or numbers for the network's.
        names: of the network's classes; empty where they are not known.
        listed: whether a comma in a name separates alternatives, of which the first is shown.

    Raises ValueError where labels by order would be wrong: names that the network does not have, where it has others.
    """
    if not names:
        return data, _as_text(data.classes)
    if _keys(data.classes) == _keys(names):
        return replace(data, classes=tuple(names)), ""
    shown = [name.partition(",")[0] if listed else name for name in names]
    found = [_number(name, len(names)) for name in data.classes]
    if None in found or all(name.isdecimal() for name in names):  # of which each may be another's number
        known = _numbers(names, listed)
        found = [known.get(_key(name), known.get(_key(name).removesuffix("s"))) for name in data.classes]
    numbers = [number for number in found if number is not None]
    if len(set(numbers)) == len(found):
        labels = torch.tensor(numbers)[data.labels]
        moved = ", ".join(f"{name} is {k}" for name, k in zip(data.classes[:_LISTED], numbers, strict=False))
        more = ", …" if len(numbers) > _LISTED else ""
        words = "" if torch.equal(labels, data.labels) else f"classes are matched by name: {moved}{more}"
        return replace(data, labels=labels, classes=tuple(shown)), words
    unknown = [name for name, k in zip(data.classes, found, strict=True) if k is None] or list(data.classes)
    some, theirs = (", ".join(every[:_LISTED]) + (", …" if len(every) > _LISTED else "") for every in (unknown, shown))
    in_order = all(k in (None, place) for place, k in enumerate(found))
    if len(data.classes) != len(names) or not in_order:
        raise ValueError(
            f"`data` has classes that the network does not know by name: {some}; its {len(names)} are {theirs}; name"
            " the folders, or `classes` of an archive, after them or by their numbers from 0"
        )
    others = f"the network's classes ({theirs}) have other names than the data's ({some})"
    return data, f"warning: {others}, and are taken in order"


def _as_text(names: Sequence[str]) -> str:
    """Warn where names that are numbers stand in another order than their numbers, as text is sorted."""
    if not all(name.isascii() and name.isdecimal() for name in names):
        return ""
    moved = [f"{name} is {k}" for k, name in enumerate(names) if int(name) != k]
    more = ", …" if len(moved) > _LISTED else ""
    return f"warning: labels follow the order of names as text: {', '.join(moved[:_LISTED])}{more}" if moved else ""


def _numbers(names: Sequence[str], listed: bool) -> dict[str, int]:
    """Return the numbers of classes by every name that one class alone has."""
    every = [(_key(n), k) for k, name in enumerate(names) for n in (name.split(",") if listed else (name,))]
    owners: dict[str, set[int]] = {}
    for name, k in every:
        owners.setdefault(name, set()).add(k)
    return {name: min(numbers) for name, numbers in owners.items() if len(numbers) == 1}


def _number(name: str, count: int) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < count else None


def _keys(names: Sequence[str]) -> list[str]:
    return list(map(_key, names))


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())

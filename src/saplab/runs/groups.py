"""Which cells of images are computed together, and what it costs."""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any

from saplab.attacks import eps_of
from saplab.attacks.attack import Cost
from saplab.attacks.batteries import attack_of
from saplab.runs.cell import Cell

Group = tuple[Cell, ...]


def groups(cells: Iterable[Cell]) -> list[Group]:
    """Gather the cells that share their adversarial images, in the order of each group's first."""
    found: dict[bytes, list[Cell]] = {}
    for cell in cells:
        found.setdefault(sha256(cell.crafting.encode()).digest(), []).append(cell)
    return [tuple(group) for group in found.values()]


def cost_of(group: Group) -> Cost:
    """Bound the work of a group from above, in passes of one image through a network."""
    most = max(group, key=lambda cell: cell.attack.get("samples", 1))
    images, crafting = most.stop - most.start, crafting_cost(most)
    predictions = sum(cell.passes * len(cell.strengths) for cell in group)
    return Cost(images * (crafting.forward + predictions), images * crafting.backward)


def work_of(group: Group) -> int:
    """Give the cost of a group as one number: a backward pass counts as two."""
    return passes_of(cost_of(group))


def passes_of(cost: Cost) -> int:
    """Give a cost as one number."""
    return cost.forward + 2 * cost.backward


def crafting_cost(cell: Cell) -> Cost:
    """Bound the work of making one adversarial image at every strength of a cell."""
    return _attack_cost(tuple(cell.attack.items()), cell.strengths)


@lru_cache(maxsize=1024)
def _attack_cost(settings: tuple[tuple[str, Any], ...], strengths: tuple[float, ...]) -> Cost:
    eps = [eps_of(strength) for strength in strengths if strength > 0]
    return attack_of(dict(settings)).cost(eps) if eps else Cost(0, 0)

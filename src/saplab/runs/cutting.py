"""From a cell over all examples or games to cells that are computed, and saved, by themselves."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, zip_longest

from saplab.runs.cell import Cell
from saplab.system.counts import check_cells


def cut(whole: Cell, size: int, seeds: int = 1) -> tuple[tuple[Cell, ...], ...]:
    """Cut a cell into cells of at most `size` examples or games, for each of `seeds` seeds from the cell's own."""
    for name, value in (("seeds", seeds), ("batch_size", size)):
        if value < 1:
            raise ValueError(f"`{name}` must be >= 1, got {value}")
    starts = range(whole.start, whole.stop, size)
    check_cells(len(starts) * seeds)
    return tuple(
        tuple(replace(whole, start=a, stop=min(a + size, whole.stop), seed=whole.seed + k) for a in starts)
        for k in range(seeds)
    )


def cut_each(wholes: Iterable[tuple[Cell, int]], size: int) -> tuple[tuple[Cell, ...], ...]:
    """Cut several cells, each for so many seeds, as `cut` does one: for each seed, the cells of the first and so on."""
    parts = (cut(whole, size, seeds) for whole, seeds in wholes)
    return tuple(tuple(chain(*of_seed)) for of_seed in zip_longest(*parts, fillvalue=()))

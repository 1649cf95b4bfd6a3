"""From a request to its cells: one curve is one defender against one adversary, cut into ranges of examples."""

from dataclasses import replace

from saplab.studies.cell import Cell, Curve
from saplab.studies.paper import paper_accuracies


def curve(label: str, whole: Cell, per_cell: int, claim: str = "") -> Curve:
    """Cut the cell over all examples into cells of `per_cell` examples, and name them as one curve.

    Raises:
        ValueError: `per_cell` < 1, or no example.
    """
    if per_cell < 1:
        raise ValueError(f"`batch_size` must be >= 1, got {per_cell}")
    if whole.stop <= whole.start:
        raise ValueError(f"there must be at least one example, got the range {whole.start}..{whole.stop}")
    starts = range(whole.start, whole.stop, per_cell)
    cells = tuple(replace(whole, start=a, stop=min(a + per_cell, whole.stop)) for a in starts)
    return Curve(label, cells, claim, paper_accuracies(whole))

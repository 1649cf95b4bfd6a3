"""Cells, the unit of work, where their results are kept, and what computes them."""

from saplab.runs.cell import Cell, Curve, GameCell, ImageCell, Network, cell_of, groups_of, work_of
from saplab.runs.cutting import cut, cut_each
from saplab.runs.request import Request
from saplab.runs.results import BrokenCellError, GameResult, ImageResult
from saplab.runs.run import run, unfinished
from saplab.runs.store import Memory, Results, Store, Survey

__all__ = [
    "BrokenCellError", "Cell", "Curve", "GameCell", "GameResult", "ImageCell", "ImageResult", "Memory", "Network",
    "Request", "Results", "Store", "Survey", "cell_of", "cut", "cut_each", "groups_of", "run", "unfinished",
    "work_of",
]  # fmt: skip

"""How to compute: the store of results, and the engines that fill it."""

from saplab.runs.request import Request, cell_from_json
from saplab.runs.store import BrokenCellError, CellResult, Store

__all__ = ["BrokenCellError", "CellResult", "Request", "Store", "cell_from_json"]

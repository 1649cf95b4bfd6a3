"""What to compute: cells, the unit of work, and curves of them."""

from saplab.studies.cell import Cell, Curve, Network

__all__ = ["Cell", "Curve", "Network"]

"""The measuring instrument: what pruning, passes and gradients cost, beside what people would use instead."""

from saplab.bench.page import render, rewrite_page, write_files, write_results
from saplab.bench.plan import SECTIONS, Plan
from saplab.bench.results import Fit, Record, Results, read_results
from saplab.bench.run import check, run
from saplab.bench.tables import Table, compare, conditions, tables, to_markdown

__all__ = [
    "SECTIONS",
    "Fit",
    "Plan",
    "Record",
    "Results",
    "Table",
    "check",
    "compare",
    "conditions",
    "read_results",
    "render",
    "rewrite_page",
    "run",
    "tables",
    "to_markdown",
    "write_files",
    "write_results",
]

"""The measuring instrument: what pruning, passes and gradients cost, beside what people would use instead."""

from suite.page import render, rewrite_page, write_files, write_results
from suite.plan import SECTIONS, Plan
from suite.results import Fit, Record, Results, read_results
from suite.run import check, run
from suite.tables import Table, compare, conditions, tables, to_markdown

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

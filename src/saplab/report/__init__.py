"""Charts, tables and the page, from stored cells."""

from saplab.report.page import write_report
from saplab.report.rows import Row, Summary, summarise, to_csv, to_records

__all__ = ["Row", "Summary", "summarise", "to_csv", "to_records", "write_report"]

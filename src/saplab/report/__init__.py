"""Charts, tables and the page, from stored cells."""

from saplab.report.page import Report, write_report
from saplab.report.rows import Row, Summary, summarise, to_csv, to_records

__all__ = ["Report", "Row", "Summary", "summarise", "to_csv", "to_records", "write_report"]

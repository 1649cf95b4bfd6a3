"""Charts, tables and the page, from stored cells."""

from saplab.report.games import TableReport, is_table, write_table
from saplab.report.page import Report, write_report
from saplab.report.rows import Row, Summary, summarise, to_csv, to_parquet, to_records
from saplab.report.study import StudyReport, is_study, write_study

__all__ = [
    "Report",
    "Row",
    "StudyReport",
    "Summary",
    "TableReport",
    "is_study",
    "is_table",
    "summarise",
    "to_csv",
    "to_parquet",
    "to_records",
    "write_report",
    "write_study",
    "write_table",
]

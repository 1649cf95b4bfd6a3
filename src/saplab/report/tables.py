"""Tables: rows laid out by two of their values, and records as CSV and Parquet."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

TYPES: Final[Mapping[str, type]] = {  # of columns; others hold floating-point numbers
    "curve": str, "figure": str, "norm": str, "game": str, "agent": str, "images": int, "games": int, "seeds": int,
    "model": str, "defense": str, "adversary": str, "attack": str, "settings": str, "samples": int, "attack_steps": int,
    "backward": str, "loss": str, "passes": int, "seed": int, "precision": str,
}  # fmt: skip


def pivot(rows: Iterable[T], by: Callable[[T], A], across: Callable[[T], B]) -> dict[A, dict[B, T]]:
    """Lay out rows by two of their values: what stands at the left of a table, and what stands above it."""
    found: dict[A, dict[B, T]] = {}
    for row in rows:
        found.setdefault(by(row), {})[across(row)] = row
    return found


def columns_of(table: Mapping[Any, Mapping[B, Any]]) -> list[B]:
    """Return what stands above a pivoted table: numbers ascending, anything else in the order of the rows."""
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    return sorted(columns, key=lambda column: column if isinstance(column, int | float) else 0)


def texts(table: Mapping[Any, Mapping[Any, T]], text: Callable[[T], str]) -> list[list[str]]:
    """Return the texts of a pivoted table's cells, row by row; a dash where there is nothing."""
    columns = columns_of(table)
    return [[text(cells[column]) if column in cells else "–" for column in columns] for cells in table.values()]


def strength_text(strength: float) -> str:
    """Return a strength without a needless fraction: 8.0 is ``8``."""
    return f"{strength:g}"


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records with the same names, at least one, as CSV text with a header; None is an empty field.

    A text that a spreadsheet would compute as a formula gets an apostrophe in front.
    """
    writer = csv.DictWriter(text := io.StringIO(), list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in record.items()} for record in records)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value


def to_parquet(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Return records with the same names, at least one, as a Parquet file; None is null."""
    import pyarrow
    import pyarrow.parquet

    arrow = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, arrow[TYPES.get(name, float)]) for name in records[0]])
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records), schema), content)
    return content.getvalue()

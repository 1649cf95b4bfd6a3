"""Tables: laid out by two values, as CSV, Parquet and Markdown."""

import io

import pytest
from pyarrow import parquet

from saplab.metrics import Interval
from saplab.metrics.scores import Change, Score
from saplab.report.markdown import accuracy_text, change_text, page_text, pivot_text, score_text, table_text
from saplab.report.tables import columns_of, pivot, texts, to_csv, to_parquet

ROWS = [("b", 8.0, "x"), ("b", 0.0, "y"), ("a", 0.0, "z")]
TABLE = pivot(ROWS, lambda row: row[0], lambda row: row[1])


def test_a_pivot_keeps_the_order_of_names_and_sorts_numbers():
    assert list(TABLE) == ["b", "a"]
    assert columns_of(TABLE) == [0.0, 8.0]
    assert columns_of(pivot(ROWS, lambda row: row[1], lambda row: row[0])) == ["b", "a"]
    assert texts(TABLE, lambda row: row[2]) == [["y", "x"], ["z", "–"]]


def test_csv_has_empty_fields_for_no_number():
    records = [{"curve": 'a, "b"', "points": 1.5, "points_low": None}, {"curve": "c", "points": 2.0, "points_low": 1.0}]
    assert to_csv(records) == 'curve,points,points_low\n"a, ""b""",1.5,\nc,2.0,1.0\n'


def test_parquet_has_types_where_there_is_no_number():
    records = [{"game": "assault", "agent": "a", "games": 3, "points": 2, "points_low": None}]
    table = parquet.read_table(io.BytesIO(to_parquet(records)))
    assert table.to_pylist() == records
    assert [str(field.type) for field in table.schema] == ["string", "string", "int64", "double", "double"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (accuracy_text(Interval(0.78, 0.742, 0.814, 500), None), "78.0 [74.2, 81.4]"),
        (accuracy_text(Interval(0.78, 0.742, 0.814, 500), 78.5), "78.0 [74.2, 81.4]; paper 78.5"),
        (score_text(Score(1611.0, 1579.3, 1642.7, 30)), "1,611.0 [1,579.3, 1,642.7]"),
        (score_text(Score(1611.0, None, None, 1)), "1,611.0"),
        (change_text(Change(3.44, -8.5, 17.3), True, 10.4), "+3.4 [-8.5, +17.3]; paper +10.4"),
        (change_text(None, True, 131.7), "blank; paper +131.7"),
        (change_text(None, False, None), "–"),
    ],
)
def test_numbers_come_with_their_intervals_and_the_papers(text, expected):
    assert text == expected


def test_markdown_tables_align_numbers():
    assert table_text(("a", "b"), [("x", "1")]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    assert pivot_text("points", TABLE, lambda row: row[2]).splitlines() == [
        "| points | λ = 0 | λ = 8 |", "| --- | ---: | ---: |", "| b | y | x |", "| a | z | – |"
    ]  # fmt: skip


def test_a_page_of_markdown_says_how_it_was_made():
    text = page_text("Title", ["one", "", "two"], "saplab reproduce mine", {"threads": "2"})
    assert text == "# Title\n\none\n\ntwo\n\n## Made by\n\n```\nsaplab reproduce mine\n```\n\n- threads: 2\n"

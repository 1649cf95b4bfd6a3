"""Texts of other people in results.md and CSV: shown as they are, never as HTML, links or formulas."""

import csv
import io
import re

import pytest

from saplab.report.markdown import drawing_text, escaped, page_text, pivot_text
from saplab.report.tables import to_csv


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SAP-100, identity backward", "SAP-100, identity backward"),
        ("bank_heist", "bank_heist"),
        ("<script>alert(1)</script> & more", "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more"),
        ("[click](javascript:x) ![i](http://e)", r"\[click](javascript:x) !\[i](http://e)"),
        ("a | b\n\n# heading", r"a \| b # heading"),
        ("# heading", r"\# heading"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("83.3 %", "83.3 %"),
        ("*bold* _word_ `code` ~~no~~ \\", r"\*bold\* \_word\_ \`code\` \~\~no\~\~ " + "\\\\"),
    ],
)
def test_a_text_is_shown_as_it_is(text, shown):
    assert escaped(text) == shown


def test_a_label_stays_in_its_cell_of_a_table():
    text = pivot_text("corner", {"a | b\n| c | <b>": {0.0: 1.5}}, str)
    assert text.splitlines()[-1] == r"| a \| b \| c \| &lt;b&gt; | 1.5 |"
    assert len(text.splitlines()) == 3


def test_a_page_keeps_its_command_in_its_block_and_its_title_in_one_line():
    page = page_text("T\n<img src=x>", [], "saplab `x`\n```\n<script>", {"machine": "<b>\n- item"})
    assert page.startswith("# T &lt;img src=x&gt;\n")
    fence, _, rest = page.partition("## Made by\n\n")[2].partition("\n")
    assert fence == "````"
    assert "<script>" not in rest.partition(f"\n{fence}\n")[2]
    assert page.endswith("- machine: &lt;b&gt; - item\n")


def test_a_drawing_is_found_by_a_name_with_spaces():
    assert drawing_text("a]", "of my own") == "![a]](figures/of%20my%20own.svg)"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r\n=1", " =1", '=HYPERLINK("http://e")'])
def test_a_text_is_no_formula_of_a_spreadsheet(text):
    record = {"curve": text, "strength": -1.0, "images": None}
    header, row = csv.reader(io.StringIO(to_csv([record])))
    assert header == ["curve", "strength", "images"]
    assert row == [f"'{text}", "-1.0", ""]


def test_other_texts_and_numbers_stay_as_they_are():
    (row,) = csv.DictReader(io.StringIO(to_csv([{"curve": "SAP-100, identity", "points": -0.5}])))
    assert row == {"curve": "SAP-100, identity", "points": "-0.5"}
    assert not re.search("'", to_csv([{"curve": "dense"}]))

import csv
import html
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import markupsafe
import numpy as np
import pytest
from synthetic import HOSTILE, fill, make_curve, make_request, make_result

from saplab.attacks import strength_of
from saplab.evaluation.report import drawn, write_report
from saplab.evaluation.rows import summarise
from saplab.metrics import accuracy, single_pass_accuracy
from saplab.paper.report import write_study
from saplab.report.tables import to_csv, to_parquet
from saplab.runs import Request


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run of three curves with its report, rendered once."""
    store = fill(tmp_path_factory.mktemp("runs") / "done")
    return store, write_report(store, store.root).files


@pytest.fixture(scope="session")
def page(run):
    return run[1][0].read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def rows(run):
    return summarise(run[0]).rows


def records(rows):
    return [row.record() for row in rows]


# Rows


def test_rows_are_the_accuracies_of_all_cells_together(run, rows):
    store = run[0]
    curve = store.request.curves[1]
    results = [make_result(cell, 0.1) for cell in curve.cells]
    labels = np.concatenate([result.labels for result in results])
    for k, row in enumerate(row for row in rows if row.curve == curve.label):
        assert row.strength == strength_of(curve.eps[k])
        assert row.averaged == accuracy(np.concatenate([result.probs[k] for result in results]), labels)
        assert row.single == single_pass_accuracy(np.concatenate([result.votes[k] for result in results]), labels)
        assert row.paper == curve.paper.get(row.strength)


def test_rows_come_in_the_order_of_the_request(run, rows):
    store = run[0]
    expected = [(curve.label, lam) for curve in store.request.curves for lam in map(strength_of, curve.eps)]
    assert [(row.curve, row.strength) for row in rows] == expected


def test_csv_holds_the_rows_and_empty_fields_for_no_number(rows):
    table = list(csv.DictReader(io.StringIO(to_csv(records(rows)))))
    assert len(table) == len(rows)
    assert float(table[0]["averaged_percent"]) == pytest.approx(100 * rows[0].averaged.estimate, abs=1e-4)
    assert (table[0]["images"], table[0]["paper_percent"]) == ("40", "")
    assert [line["paper_percent"] for line in table if line["curve"] == "SAP-100"][:4] == ["83.3", "78.5", "72.7", ""]


def test_parquet_holds_the_same_with_types(rows):
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(to_parquet(records(rows))))
    lines = table.to_pylist()
    assert lines == records(rows)
    assert [(line["curve"], line["strength"], line["images"]) for line in lines] == [
        (row.curve, row.strength, 40) for row in rows
    ]
    shares = [100 * row.averaged.estimate for row in rows]
    assert [line["averaged_percent"] for line in lines] == pytest.approx(shares, abs=1e-4)
    assert len(set(shares)) > 1
    assert [str(table.schema.field(name).type) for name in ("curve", "strength", "images", "paper_percent")] == [
        "string", "double", "int64", "double"]  # fmt: skip
    assert to_parquet(records(rows[:1]))[:4] == b"PAR1"  # a column of nothing but nulls keeps its type


def test_records_can_be_grouped_by_what_decided_them(rows):
    dense, _, identity = records(rows)[::6]
    assert (dense["model"], dense["defense"], dense["adversary"]) == ("preact-resnet20-dense", "", "self")
    assert (identity["defense"], identity["attack"], identity["backward"]) == ("sap:100", "fgsm", "identity")
    assert (identity["samples"], identity["attack_steps"], identity["passes"], identity["seed"]) == (20, 1, 20, 0)
    assert (identity["loss"], identity["norm"], identity["precision"]) == ("cross-entropy", "linf", "float32")


def test_records_are_json(rows):
    assert json.loads(json.dumps(records(rows)))[0]["paper_percent"] is None


def test_an_unfinished_run_counts_its_cells(tmp_path):
    summary = summarise(fill(tmp_path, cells=3))
    assert (summary.finished, summary.total) == (3, 6)
    assert [(row.curve, row.averaged.n) for row in summary.rows[::6]] == [("dense", 40), ("SAP-100", 20)]


def test_a_damaged_cell_is_left_out_and_named(tmp_path):
    store = fill(tmp_path)
    store.path(store.request.cells[0]).write_bytes(b"x")
    summary = summarise(store)
    assert (summary.finished, len(summary.problems)) == (5, 1)
    assert summary.rows[0].averaged.n == 20


def test_an_empty_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no finished cell yet"):
        write_report(fill(tmp_path, cells=0), tmp_path)


# Files


def test_report_writes_page_numbers_and_charts(run):
    store, paths = run
    charts = [f"{name}.{kind}" for name in ("accuracy", "reliability") for kind in ("svg", "png", "pdf")]
    assert paths == tuple(store.root / name for name in ["report.html", "accuracy.csv", "accuracy.parquet", *charts])
    starts = (b"<!doctype html>", b"curve,strength", b"PAR1", *(b"<svg", b"\x89PNG", b"%PDF") * 2)
    assert all(path.read_bytes().lstrip().startswith(start) for path, start in zip(paths, starts, strict=True))
    assert not [path for path in store.root.glob(".*") if path.name != ".lock"]


def test_svg_needs_nothing_from_elsewhere(run):
    drawn = run[1][3].read_text(encoding="utf-8")
    assert all(link.startswith("#") for link in re.findall(r"(?:href|src)=.([^\"']+)", drawn))
    assert not re.search("|".join([TAGS_THAT_LOAD, *CODE_THAT_LOADS]), drawn)


def test_a_report_is_written_again_with_the_same_verdict(run):
    store, paths = run
    before = paths[0].read_bytes()
    again = write_report(store, store.root)
    assert (again.files, paths[0].read_bytes()) == (paths, before)
    assert again.findings.verdict.sentence in html.unescape(before.decode())


# Page


def test_page_shows_every_number(page, rows):
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    for row in rows:
        assert f"<b>{100 * row.averaged.estimate:.1f}</b>" in text
        assert f"{100 * row.averaged.low:.1f} – {100 * row.averaged.high:.1f}" in text
    assert text.count("paper 83.3") == 1
    assert f"one pass {100 * rows[6].single.estimate:.1f}" in text


@pytest.mark.parametrize(
    "words",
    ["saplab demo --out saplab-demo", "torch 2.13.0", "Averages 20 gradients", "preact-resnet20-dense, sap:100",
     "the defender itself", "identity", "float32", "40 (positions 0 to 39)", "9 s in 6 cells"],
)  # fmt: skip
def test_page_says_what_was_run(page, words):
    assert words in page


def test_page_of_a_finished_run_has_no_notice(page):
    assert 'class="notice"' not in page


def test_page_of_an_unfinished_run_says_so(tmp_path):
    write_report(fill(tmp_path, cells=3), tmp_path)
    assert "3 of 6 cells are stored" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    curves = (make_curve(HOSTILE, claim=HOSTILE), make_curve("other", seed=1))
    store = fill(tmp_path_factory.mktemp("runs") / "hostile", Request(HOSTILE, curves, HOSTILE, notes=(HOSTILE,)))
    return write_report(store, store.root).files


def test_page_escapes_what_others_wrote(hostile):
    text = hostile[0].read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "&lt;/script&gt;&lt;img" in text
    assert "{{ 7 * 7 }}" in text
    assert text.count("</script") == 2
    assert f'<p class="note">{markupsafe.escape(HOSTILE)}</p>' in text


def test_page_says_below_the_verdict_what_the_rehearsal_found(tmp_path):
    """A page of an evaluation; that of a study and its Markdown say the same."""
    notes = ("The network is random by itself.", "Its outputs are probabilities & no logits.")
    store = fill(tmp_path, replace(make_request(), notes=notes))
    report = write_report(store, store.root)
    assert report.notes == notes
    header = re.search(r"<header>.*</header>", report.files[0].read_text(encoding="utf-8"), re.DOTALL)[0]
    assert header.index('class="finding"') < header.index(notes[0]) < header.index("probabilities &amp; no logits")
    study = write_study(store, figures=())
    assert study.files[0].read_text(encoding="utf-8").count('<p class="note">The network is random by itself.</p>') == 1
    assert notes[0] in study.files[1].read_text(encoding="utf-8")


TAGS_THAT_LOAD = r"""<(?:script|img|iframe|link|source|object|embed)\b[^>]*\b(?:src|href|data)\s*=\s*(?!["']?data:)"""
CODE_THAT_LOADS = (
    r"""@import|url\(\s*["']?(?:https?:)?//""",
    r"""\bimport\s*\(?\s*["'](?:https?:)?//""",
    r"""\b(?:fetch|importScripts|WebSocket|EventSource)\s*\(\s*["'`](?:https?:)?//""",
)


def test_no_tag_of_the_page_loads_anything(page):
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert re.search(TAGS_THAT_LOAD, markup) is None


@pytest.mark.parametrize("pattern", CODE_THAT_LOADS)
def test_no_code_of_the_page_loads_anything(page, pattern):
    assert re.search(pattern, page) is None


def test_page_forbids_itself_to_load_anything(page):
    assert "default-src 'none'" in page


def test_the_attack_that_decides_is_drawn_at_first():
    rows = [SimpleNamespace(curve=f"attack {k}", across=k == 7) for k in range(9)]
    summary = SimpleNamespace(images=[row for row in rows for _ in range(2)], shown=("attack 8", "attack 1"))
    findings = SimpleNamespace(verdict=SimpleNamespace(headline=SimpleNamespace(attack="attack 5")))
    assert drawn(summary, findings) == ("attack 1", "attack 5", "attack 8")
    assert drawn(summary, None) == ("attack 1", "attack 8")

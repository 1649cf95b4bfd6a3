"""Charts: every number is drawn, in the theme's colours, and nothing else."""

import re

import numpy as np
import pytest

from saplab.metrics import game_value
from saplab.report.calibration import reliability_chart
from saplab.report.charts import DARK, PAGE, PAPER, accuracy_chart, swatches, to_bytes
from saplab.report.games import points_chart
from saplab.report.minimax import game_chart
from saplab.report.sweeps import against_chart

STRENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)


def record(curve="dense", strength=0.0, percent=80.0, paper=None, **more):
    return {
        "curve": curve, "strength": strength, "images": 40, "averaged_percent": percent, "averaged_low": percent - 5,
        "averaged_high": percent + 5, "single_pass_percent": percent - 1, "paper_percent": paper, "across": False,
        **more,
    }  # fmt: skip


RECORDS = [
    record(curve, strength, 80 - strength, paper)
    for curve, paper in (("dense", None), ("SAP-100", 78.5))
    for strength in STRENGTHS
]


def texts(chart):
    return re.findall(r">([^<>]+)</text>", to_bytes(chart, "svg").decode())


# Accuracy


def test_chart_holds_every_number_and_the_papers():
    spec = accuracy_chart(RECORDS).to_dict()
    assert spec["data"]["values"] == RECORDS
    assert len(spec["layer"]) == 5
    assert spec["layer"][0]["encoding"]["x"]["axis"]["values"] == list(STRENGTHS)
    assert spec["layer"][0]["encoding"]["x"]["scale"]["type"] == "symlog"
    fields = [layer["encoding"]["y"]["field"] for layer in spec["layer"]]
    assert fields == ["drawn_low", "drawn_percent", "drawn_percent", "paper_percent", "paper_percent"]
    assert spec["layer"][0]["encoding"]["y2"]["field"] == "drawn_high"
    assert spec["layer"][1]["encoding"]["y"]["scale"]["domain"] == [0, 100]
    shown = {tooltip["field"] for tooltip in spec["layer"][2]["encoding"]["tooltip"]}
    assert {"curve", "strength", "images", "drawn_low", "single_pass_percent", "paper_percent"} <= shown


def test_chart_without_the_papers_numbers_has_no_hollow_points():
    assert len(accuracy_chart(RECORDS[:6]).to_dict()["layer"]) == 3


def test_curves_across_and_lone_strengths_are_not_drawn():
    more = [record("across", s, across=True) for s in STRENGTHS] + [record("alone", 64.0)]
    assert accuracy_chart(RECORDS + more).to_dict()["data"]["values"] == RECORDS
    assert [label for label, _, _ in swatches(RECORDS + more)] == ["dense", "SAP-100"]


def test_curves_that_are_not_shown_are_on_the_page_alone():
    paper, page = (accuracy_chart(RECORDS, theme, shown=["SAP-100"]).to_dict() for theme in (PAPER, PAGE))
    assert {row["curve"] for row in paper["data"]["values"]} == {"SAP-100"}
    assert {row["curve"] for row in page["data"]["values"]} == {"SAP-100", "dense"}
    assert page["params"] == paper["params"] == [{"name": "shown", "value": ["SAP-100"]}]


def test_page_and_files_draw_the_same_chart():
    page, paper = (accuracy_chart(RECORDS, theme).to_dict() for theme in (PAGE, PAPER))
    marks = [[layer["mark"] for layer in spec["layer"]] for spec in (page, paper)]
    assert marks[0] == marks[1]
    assert page["params"] == paper["params"]


def test_a_menu_on_the_page_chooses_how_accuracy_is_counted():
    tries = {f"after_10_tries_{end}": 40.0 + k for k, end in enumerate(("percent", "low", "high"))}
    nothing = dict.fromkeys(name.replace("10", "100") for name in tries)
    random, dense = (record(curve, s, 80.0, **known, **nothing) for curve, known, s in (
        ("SAP-100", tries, 0.0), ("dense", dict.fromkeys(tries), 0.0)))  # fmt: skip
    page = accuracy_chart([random, dense], PAGE).to_dict()
    (menu,) = [param for param in page["params"] if param["name"] == "counted"]
    assert menu["value"] == "averaged"
    assert menu["bind"]["options"] == ["averaged", "single_pass", "after_10_tries"]
    assert menu["bind"]["labels"] == ["the averaged prediction", "one pass", "10 tries"]
    calculated = {step["as"]: step["calculate"] for step in page["transform"] if "as" in step}
    assert set(calculated) == {"drawn_percent", "drawn_low", "drawn_high"}  # none of the records' own
    assert calculated["drawn_low"] == (
        "isValid(datum[counted + '_low']) ? datum[counted + '_low'] : datum.averaged_low"
    )
    assert "counted" not in str(accuracy_chart([random, dense]).to_dict())
    assert "counted" not in str(accuracy_chart([dense], PAGE).to_dict())


def test_a_single_strength_has_bars_for_its_intervals():
    spec = accuracy_chart([row for row in RECORDS if row["strength"] == 8]).to_dict()
    assert spec["layer"][0]["mark"]["type"] == "rule"


def test_fractions_and_large_strengths_are_labelled_as_they_are():
    assert {"0", "0.5", "16", "64"} <= set(texts(accuracy_chart([record(strength=s) for s in (0.0, 0.5, 16.0, 64.0)])))


@pytest.mark.parametrize(
    "draw", [accuracy_chart, reliability_chart, points_chart, lambda records: against_chart(records, "size")]
)
def test_charts_of_nothing_are_errors(draw):
    with pytest.raises(ValueError, match="`records` must hold at least one"):
        draw([])


# Looks


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [PAPER, DARK])
def test_curves_stand_out_from_the_ground(theme):
    """WCAG 2: 3:1 for graphics, 4.5:1 for text."""
    assert min(contrast(colour, theme.background) for colour in theme.curves) >= 3
    assert contrast(theme.ink, theme.background) >= 4.5


def test_each_of_many_curves_looks_different():
    many = [record(f"curve {k}") for k in range(30)]
    assert len({(colour, shape) for _, colour, shape in swatches(many)}) == 30


def test_nine_curves_have_nine_colours():
    many = [record(f"curve {k}") for k in range(9)]
    assert len({colour for _, colour, _ in swatches(many)}) == 9
    assert len(PAPER.curves) == len(DARK.curves) == len(set(PAPER.curves)) == len(set(DARK.curves)) == 10


def test_each_strength_of_a_sweep_is_told_apart_by_colour_and_shape():
    strengths = (0, 1, 2, 4, 8, 16, 32, 64)
    points = [
        {"value": value, "strength": strength, "percent": 50.0, "from": 40.0, "to": 60.0}
        for value in (1, 100)
        for strength in strengths
    ]
    drawing = to_bytes(against_chart(points, "size"), "svg").decode()
    symbols = re.findall(r'role-legend-symbol[^>]*><path[^>]* d="([^"]+)" fill="([^"]+)"', drawing)
    assert len(symbols) == len(set(symbols)) == len(strengths)


# The others


def test_a_diagram_has_a_panel_for_each_strength_and_its_images_in_the_bars():
    bins = [
        {"curve": "a", "strength": s, "low": 0.9, "high": 1.0, "confidence": 0.95, "accuracy": accuracy,
         "images": images, "share": 1.0}
        for s, accuracy, images in ((0.0, 0.9, 37), (8.0, 0.1, 41))
    ]  # fmt: skip
    assert {"λ = 0", "λ = 8", "37", "41"} <= set(texts(reliability_chart(bins)))
    page = reliability_chart(bins, PAGE).to_dict()
    assert page["params"][0]["bind"]["options"] == ["a"]


def test_each_game_has_a_panel_with_a_scale_of_its_own():
    rows = [
        {"game": game, "agent": agent, "strength": s, "points": top - s, "points_low": None, "points_high": None}
        for game, top in (("Assault", 500.0), ("Bowling", 20.0))
        for agent in ("original", "SAP-100")
        for s in (0.0, 8.0)
    ]
    found = texts(points_chart(rows))
    assert {"Assault", "Bowling", "original", "SAP-100", "500", "20"} <= set(found)


def test_a_game_shows_its_payoffs_and_how_often_each_choice_is_played():
    chart = game_chart(game_value([[0.9, 0.1], [0.2, 0.8]], ["dense", "SAP-100"], ["noise", "FGSM"]))
    assert {"90", "10", "20", "80", "dense", "SAP-100", "noise", "FGSM"} <= set(texts(chart))
    weights = re.findall(r"'weight': ([\d.]+)", str(chart.to_dict()))
    assert sorted(map(float, weights)) == pytest.approx([300 / 7, 50, 50, 400 / 7])


def test_no_chart_shortens_the_names_of_curves():
    """Names that differ at their ends alone, in samples and backward rule, never read alike."""
    long = "stochastic+SAP-100+RNA-0.01: transfer APGD-1000 DLR ×10 relaxed of probabilities by one draw restarts=5, {}"
    names = [long.format(end) for end in ("×5 mask", "×5 identity", "×10 identity")]
    bins = [
        {"curve": name, "strength": 2.0, "low": 0.1, "high": 0.2, "confidence": 0.15, "accuracy": 0.1, "images": 3,
         "share": 0.1}
        for name in names
    ]  # fmt: skip
    drawn = (
        accuracy_chart([record(name, strength) for name in names for strength in (0.0, 2.0)]),
        reliability_chart(bins),
        game_chart(game_value([[0.9, 0.1, 0.2], [0.2, 0.8, 0.1]], names[:2], names)),
    )
    for chart in drawn:
        svg = to_bytes(chart, "svg").decode()
        assert all(f"{name.split(': ')[1]}</" in svg for name in names)

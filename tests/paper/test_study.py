"""Studies: figures as data and in files, their cells, and claims judged by stored numbers."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from synthetic import DENSE, MINE, fill, make_curve, make_result
from typer.testing import CliRunner

from saplab.attacks import FGSM, PGD, Iterative, MonteCarlo, RandomNoise, ThreatModel, eps_of
from saplab.cli import app
from saplab.cli.errors import guarded
from saplab.defenses import SAP, parse_defenses
from saplab.evaluation.paper_numbers import paper_accuracies
from saplab.metrics import correct, paired_difference
from saplab.metrics.calibration import calibration
from saplab.paper.choice import choose, load_networks
from saplab.paper.claims import judge, measured
from saplab.paper.figures import figures
from saplab.paper.plan import study_curves, study_models
from saplab.paper.report import write_study
from saplab.paper.study import (
    PRESETS,
    Claim,
    Figure,
    Line,
    is_study,
    load_figures,
    read_study,
    save_figures,
    split_model,
)
from saplab.runs import ImageCell, Memory, Network, Request, Store

NOBODY = Network("", "")
FACTORY = """
from torch import nn
from typer.testing import CliRunner
from saplab.models.initialise import initialise

def small():
    return initialise(nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), 0)
"""
WHOLE = ImageCell(
    defender=NOBODY, adversary=NOBODY, attack=RandomNoise(), eps=(0.0,), start=0, stop=500, data="b" * 64
)  # fmt: skip


@pytest.fixture(params=["smoke", "small", "paper"])
def planned(request):
    preset = PRESETS[request.param]
    chosen = figures(preset).values()
    return preset, study_curves(
        chosen,
        preset,
        WHOLE,
        {spec: Network(spec.partition("@")[0], f"{spec} digest") for spec in study_models(chosen)},
    )


def test_every_figure_of_the_paper_is_there():
    names = list(figures(PRESETS["small"]))
    assert names[:14] == ["fig1a", "fig1b", "fig1c", "fig2a", "fig2b", "fig2c", "fig3", "fig4",
                          *(f"fig5{letter}" for letter in "abcdef")]  # fmt: skip
    assert names[14:] == ["fig6", "erratum", "erratum-adv", "architectures", "r-sweep", "r-sites"]
    assert choose(["fig6", "fig6", "paper"], "smoke").figures[0].name == "fig6"
    assert len(choose(["all"], "smoke").figures) == 20


@pytest.mark.parametrize(
    ("names", "figures", "table", "named"),
    [
        (["fig6"], 1, "", False),
        (["table1"], 0, "table1", True),
        (["fig6", "table1", "table1-beyond"], 1, "table1-beyond", True),
        (["paper"], 15, "table1", False),
        (["all", "table1-beyond"], 20, "table1-beyond", True),
    ],
)
def test_tables_are_chosen_beside_figures(names, figures, table, named):
    chosen = choose(names, "smoke")
    assert (len(chosen.figures), chosen.table, chosen.named) == (figures, table, named)


def test_figures_without_their_networks_are_left_out(monkeypatch):
    there, lacking = Figure("f", lines=(Line("a"),)), Figure("g", lines=(Line("a"), Line("b", "resnet99")))
    left, networks, missing = load_networks([there, lacking])
    assert (left, list(networks), missing) == ((there,), ["preact-resnet20-dense"], {"g": ["resnet99"]})
    with pytest.raises(ValueError, match="resnet99"):
        load_networks([lacking])


def test_figures_share_the_cells_that_they_have_in_common(planned):
    _, curves = planned
    first = [c.cells[0] for c in curves if c.figure in ("fig1b", "fig3", "fig5a", "fig6") and c.label == "dense"]
    dense = {cell.digest for cell in first}
    assert len(first) == 4
    assert len(dense) == 1
    cells = [cell.digest for curve in curves for cell in curve.cells]
    assert len(set(cells)) < 0.85 * len(cells)


def test_fig_6_compares_nested_budgets(planned):
    preset, curves = planned
    budgets = [c.cells[0] for c in curves if c.figure == "fig6" and c.label.endswith(" MC")]
    assert tuple(cell.attack.samples for cell in budgets) == preset.budgets
    assert len({cell.together for cell in budgets}) == 1


def test_the_iterative_attack_on_another_network_does_not_stop(planned):
    _, curves = planned
    found = next(c.cells[0] for c in curves if c.figure == "fig1c" and c.label == "SAP-100 vs. dense")
    assert (found.adversary.defenses, found.attack.stop_when_lost, found.attack.samples) == ((), False, 1)


def test_lines_become_objects_with_the_presets_settings(planned):
    preset, curves = planned
    by_label = {(curve.figure, curve.label): curve for curve in curves}
    curve = by_label["fig3", "ADV+SAP-100"]
    model = "preact-resnet20-adversarial"
    assert curve.first.defender == Network(model, f"{model} digest", (SAP(100),))
    assert (curve.first.attack.samples, curve.first.passes) == (preset.samples, preset.passes)
    assert curve.eps == tuple(map(eps_of, preset.strengths))
    assert curve.paper == {0: 74.1}
    assert [cell.stop - cell.start for cell in curve.cells[:-1]] == [preset.batch] * (len(curve.cells) - 1)
    dense = by_label["fig3", "dense"].first
    assert (dense.attack.samples, dense.passes) == (1, 1)


def test_what_a_line_cannot_be_is_named():
    two = Figure("f", lines=(Line("both", attack="fgsm+noise"),))
    with pytest.raises(ValueError, match=r"f, both: `attack` must name one attack, got 'fgsm\+noise'"):
        study_curves(
            [two], PRESETS["smoke"], WHOLE, {"preact-resnet20-dense": Network("preact-resnet20-dense", "digest")}
        )


def test_figures_come_back_from_their_folder(tmp_path):
    chosen = tuple(figures(PRESETS["small"]).values())
    assert not is_study(tmp_path)
    save_figures(tmp_path, chosen)
    assert is_study(tmp_path)
    assert load_figures(tmp_path) == chosen
    (tmp_path / "study.json").write_text('[{"name": 1}]')
    with pytest.raises(ValueError, match=r"study.json is no study: Expected `object`, got `array`"):
        load_figures(tmp_path)


# One's own


def test_a_study_of_ones_own_is_read(tmp_path):
    (tmp_path / "s.toml").write_text(MINE)
    (figure,) = read_study(tmp_path / "s.toml")
    assert figure.strengths == (0.0, 4.0)
    assert figure.lines[0] == Line("plain", "mine:small", paper={0.0: 90.0, 4.0: 20.5})
    assert figure.claims == (Claim("Pruning helps.", "pruned", "higher", (4.0,), "plain"),)


def test_the_study_of_the_documentation_is_one(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    (tmp_path / "s.toml").write_text(text.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    (figure,) = read_study(tmp_path / "s.toml")
    curves = study_curves(
        [figure], PRESETS["small"], WHOLE, {"preact-resnet20-dense": Network("preact-resnet20-dense", "digest")}
    )
    assert [curve.label for curve in curves] == ["SAP-50", "SAP-100", "SAP-100, images made without it"]
    assert all(f"| `{name}` | {preset.images or 'all'} |" in text for name, preset in PRESETS.items())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[figure]]", "[figure", "is no study"),
        ('label = "plain"', 'lable = "plain"', r"unknown field `lable` - at `\$.figure\[0\].line\[0\]`"),
        ("strengths = [0, 4]", 'strengths = "0"', "Expected `array | null`, got `str`"),
        ('label = "plain"', 'label = "pruned"', "different labels"),
        ('second = "plain"', 'second = "other"', "a claim speaks of 'other', but the lines are"),
        ('relation = "higher"', 'relation = "better"', "`relation` must be one of higher"),
        ('label = "plain"', "", "missing required field `label`"),
        ("[[figure.line]]", "[figure.line]", "is no study"),
        ('label = "plain"', 'label = "plain"\nat = 0', r"Expected `float` > 0.0 - at `\$.figure\[0\].line\[0\].at`"),
        ("strengths = [4]", "strengths = []", "Expected `array` of length >= 1"),
        ('title = "Of my own"', 'against = "size"', "`against` needs lines that say where they are"),
        ('defense = "sap:200"', 'defense = "sap:200"\nat = 2', "lines of one `series` must differ in `at`"),
        (MINE, "", "figures with different names"),
    ],
)
def test_mistakes_in_a_study_are_named(tmp_path, old, new, message):
    (tmp_path / "s.toml").write_text(MINE.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        read_study(tmp_path / "s.toml")
    assert "s.toml is no study" in str(caught.value)


def test_a_study_runs_and_is_reported_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(FACTORY)
    (tmp_path / "s.toml").write_text(MINE)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", images=rng.random((20, 3, 16, 16), np.float32), labels=rng.integers(0, 4, 20))
    monkeypatch.chdir(tmp_path)

    def saplab(*words):
        return guarded(lambda: app(list(words), prog_name="saplab", standalone_mode=False))

    words = ("reproduce", "s.toml", "--preset", "smoke", "--data", "d.npz", "--out", "run")
    assert saplab(*words, "--dry-run") == 0
    assert not (tmp_path / "run").exists()
    assert saplab(*words, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [claim["outcome"] for claim in result["claims"]] != ["not computed"]
    assert {row["figure"] for row in result["rows"]} == {"mine"}
    assert result["notes"] == []
    assert (tmp_path / "run" / "figures" / "mine.svg").read_bytes().startswith(b"<svg")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Of my own" in page
    assert "paper 20.5" in page
    assert is_study("run")
    assert saplab("report", "run") == 0
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8") == page
    assert saplab("reproduce", "fig9") == 2
    assert "`name` must be one of all, paper, fig1a" in capsys.readouterr().err
    assert saplab("reproduce", "fig1a", "--preset", "huge") == 2


# Claims


def judged(relation, slopes, strengths=(2.0, 4.0), size=400):
    curves = {name: make_curve(name, shards=1, size=size, data=name, defender=DENSE) for name in slopes}
    store = Memory(Request("t", tuple(curves.values())))
    for name, slope in slopes.items():
        store.save(curves[name].first, make_result(curves[name].first, slope))
    first, *second = slopes
    claim = Claim("", first, relation, strengths, tuple(second))
    return judge(claim, {name: measured(store, curve) for name, curve in curves.items()})


@pytest.mark.parametrize(
    ("relation", "first", "second", "outcome"),
    [
        ("higher", 0.05, 0.3, "holds"),
        ("higher", 0.3, 0.05, "does not hold"),
        ("higher", 0.2, 0.2, "unclear"),
        ("lower", 0.3, 0.05, "holds"),
        ("lower", 0.05, 0.3, "does not hold"),
        ("alike", 0.2, 0.2, "holds"),
        ("alike", 0.3, 0.05, "does not hold"),
        ("better calibrated", 0.05, 0.3, "holds"),
        ("better calibrated", 0.3, 0.05, "does not hold"),
        ("better calibrated", 0.2, 0.2, "unclear"),
        ("not higher", 0.3, 0.05, "holds"),
        ("not higher", 0.2, 0.2, "holds"),
        ("not higher", 0.05, 0.3, "does not hold"),
        ("mostly lower", 0.3, 0.05, "holds"),
        ("mostly lower", 0.05, 0.3, "does not hold"),
        ("mostly lower", 0.2, 0.2, "unclear"),
    ],
)
def test_claims_are_judged(relation, first, second, outcome):
    assert judged(relation, {"a": first, "b": second}).outcome == outcome


def test_evidence_is_the_paired_difference_in_points():
    found = judged("higher", {"a": 0.05, "b": 0.3}, (4.0,))
    cell = make_curve("a", shards=1, size=400, data="a", defender=DENSE).first
    first, second = (make_result(cell, slope) for slope in (0.05, 0.3))
    gap = paired_difference(*(correct(one.probs[3], one.labels) for one in (first, second)))
    points = [f"{100 * share:+.1f}" for share in (gap.estimate, gap.low, gap.high)]
    assert found.text == found.evidence == f"a − b. λ = 4: {points[0]} points [{points[1]}, {points[2]}]"


def test_evidence_of_calibration_is_the_first_s_error_minus_the_second_s():
    found = judged("better calibrated", {"a": 0.05, "b": 0.3}, (4.0,))
    cell = make_curve("a", shards=1, size=400, data="a", defender=DENSE).first
    first, second = (make_result(cell, slope) for slope in (0.05, 0.3))
    a, b = (calibration(one.probs[3], one.labels, 10).ece.estimate for one in (first, second))
    assert a < b
    assert found.evidence.startswith(f"a − b. λ = 4: {100 * (a - b):+.1f} points of ECE [-")


def test_a_line_alone_is_held_against_chance_and_against_its_confidence():
    cell = make_curve("a", shards=1, size=400, data="a", defender=DENSE).first
    result = make_result(cell, 0.3)
    share, error = correct(result.probs[3], result.labels).mean(), calibration(result.probs[3], result.labels, 10).ece
    chance = judged("near chance", {"a": 0.3}, (4.0,))
    assert chance.evidence.startswith(f"a. λ = 4: {100 * (share - 1 / result.probs.shape[2]):+.1f} points from chance")
    assert judged("near chance", {"a": 0.05}, (0.0,)).outcome == "does not hold"
    shown = judged("calibrated", {"a": 0.3}, (4.0,))
    assert shown.evidence.startswith(f"a. λ = 4: ECE {100 * error.estimate:.1f} points [")
    assert {shown.outcome, judged("not calibrated", {"a": 0.3}, (4.0,)).outcome} == {"holds", "does not hold"}


def test_a_claim_of_several_lines_must_hold_for_each():
    slopes = {"a": 0.05, "b": 0.3, "c": 0.3}
    curves = {name: make_curve(name, shards=1, size=400, data=name, defender=DENSE) for name in slopes}
    store = Memory(Request("t", tuple(curves.values())))
    for name, slope in slopes.items():
        store.save(curves[name].first, make_result(curves[name].first, slope))
    found = {name: measured(store, curve) for name, curve in curves.items()}
    assert judge(Claim("", "a", "higher", (4.0,), ("b", "c")), found).outcome == "holds"
    mixed = judge(Claim("", ("a", "c"), "higher", (4.0,), "b"), found)
    assert mixed.outcome == "unclear"
    assert [part.split(".")[0] for part in mixed.evidence.split("]. ")] == ["a − b", "c − b"]
    assert judge(Claim("", ("a", "b"), "lower", (4.0,), "c"), found).outcome == "does not hold"
    assert judge(Claim("", ("a", "z"), "higher", (4.0,), "b"), found).outcome == "unclear"


def test_many_comparisons_contradict_no_claim_by_chance():
    claim, gap = Claim("", "a", "higher", (1.0, 2.0), "b"), 15  # images of 400 that the second alone gets right
    images = np.arange(400)
    probs = {name: np.eye(2)[(images < lost).astype(int)] for name, lost in (("a", 200 + gap), ("b", 200))}
    labels = np.zeros(400, int)
    found = {name: dict.fromkeys(claim.strengths, (p, labels)) for name, p in probs.items()}
    assert judge(claim, found).outcome == "does not hold"
    right = {name: correct(p, labels) for name, p in probs.items()}
    least = next(n for n in range(1, 40) if _contradicts(n, 0.95) and not _contradicts(n, 0.975))
    found["a"] = {s: (np.eye(2)[(images < 200 + least).astype(int)], labels) for s in claim.strengths}
    assert judge(claim, found).outcome == "unclear"
    assert right["a"].sum() == 400 - 200 - gap


def _contradicts(lost: int, confidence: float) -> bool:
    images = np.arange(400)
    return paired_difference(images >= 200 + lost, images >= 200, 1, confidence).high < 0


def test_a_claim_at_a_strength_that_was_not_run_does_not_hold_there():
    found = judged("higher", {"a": 0.05, "b": 0.3}, (4.0, 64.0))
    assert found.outcome == "unclear"
    assert "λ = 64 not computed" in found.evidence
    assert judged("higher", {"a": 0.05, "b": 0.3}, (64.0,)).outcome == "not computed"


def test_a_claim_about_an_unfinished_curve_is_not_computed():
    claim = Claim("", "a", "higher", (4.0,), "b")
    assert judge(claim, {}).outcome == "not computed"


def test_an_unfinished_study_says_so(tmp_path):
    lines = (Line("a"), Line("b"))
    figure = Figure("f", "A figure", lines, (Claim("a is better.", "a", "higher", (4.0,), "b"),))
    curves = tuple(replace(make_curve(name, seed=k), figure="f") for k, name in enumerate("ab"))
    store = Store.open(tmp_path, Request("t", curves))
    store.save(curves[0].cells[0], make_result(curves[0].cells[0]))
    save_figures(tmp_path, (figure, Figure("g", "Nothing yet", lines)))
    report = write_study(Store.read(tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report.tally == "Of 1 claim, 1 was not computed."
    assert "1 of 4 cells are stored" in page
    assert "Not computed yet." in page


def test_the_same_label_in_two_figures_is_no_clash():
    one, two = (replace(make_curve("dense"), figure=name) for name in ("f", "g"))
    assert len(Request("t", (one, two)).cells) == 2
    with pytest.raises(ValueError, match="different labels"):
        Request("t", (one, one))


def test_a_network_from_elsewhere_joins_the_architectures():
    own, both = (figures(PRESETS["small"], outside)["architectures"] for outside in ("", "resnet20@some/file.th"))
    assert both.lines[: len(own.lines)] == own.lines
    assert [line.label for line in both.lines[len(own.lines) :]] == [
        "outside, dense", "outside, SAP-100", "outside, SAP-100, identity"]  # fmt: skip
    last = msgspec.structs.replace(both, lines=both.lines[-1:], claims=())
    (curve,) = study_curves([last], PRESETS["small"], WHOLE, {"resnet20@some/file.th": Network("resnet20", "digest")})
    assert curve.first.defender == Network("resnet20", "digest", (SAP(100),))
    assert choose(["architectures"], "small", "resnet20@some/file.th").figures[0].lines == both.lines
    assert split_model("resnet20@a@b.th") == ("resnet20", "a@b.th")
    assert split_model("torchvision:resnet18") == ("torchvision:resnet18", None)


def test_the_results_are_written_as_markdown(tmp_path):
    curves = tuple(replace(make_curve(label, paper={0.0: 80.0}), figure="f") for label in ("a|b", "c"))
    figure = Figure("f", "A figure", tuple(Line(curve.label) for curve in curves),
                    (Claim("It helps.", "c", "higher", (4,), "a|b"),))  # fmt: skip
    fill(tmp_path, Request("Title", curves, "saplab reproduce mine"))
    save_figures(tmp_path, (figure,))
    report = write_study(Store.read(tmp_path))
    assert report.claims[0]["claim"] == msgspec.structs.asdict(figure.claims[0])
    assert report.claims[0]["figure"] == "f"
    assert {path.name for path in report.files} >= {"report.html", "accuracy.csv", "accuracy.parquet", "f.svg", "f.pdf"}
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{report.tally}\n")
    assert "```\nsaplab reproduce mine\n```" in text
    assert "![A figure](figures/f.svg)" in text
    assert (tmp_path / "figures" / "f.svg").is_file()
    assert f"| It helps. | f | **{report.judged[0][1].outcome}** |" in text
    row = next(row for row in report.summary.rows if row.curve == "c" and row.strength == 4)
    percents = [f"{100 * share:.1f}" for share in (row.averaged.estimate, row.averaged.low, row.averaged.high)]
    assert f"{percents[0]} [{percents[1]}, {percents[2]}]" in text
    assert "| a\\|b | " in text
    assert text.count("; paper 80.0") == 2


def test_a_second_chart_shows_accuracy_against_what_the_lines_differ_in(tmp_path):
    curves = tuple(replace(make_curve(label, seed=k), figure="f") for k, label in enumerate(("plain", "a", "b", "c")))
    places = {"a": (1, "x"), "b": (10, "x"), "c": (10, "y")}
    lines = (Line("plain"), *(Line(label, at=at, series=series) for label, (at, series) in places.items()))
    figure = Figure("f", "A figure", lines, against="size")
    fill(tmp_path, Request("Title", curves))
    save_figures(tmp_path, (figure,))
    report = write_study(Store.read(tmp_path))
    drawing = (tmp_path / "figures" / "f-against.svg").read_text(encoding="utf-8")
    assert all(f">{text}</text>" in drawing for text in ("size", "x", "y", "accuracy (%)"))
    assert "![A figure: against size](figures/f-against.svg)" in (tmp_path / "results.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'data-drawing="f-against"' in page
    chart = json.loads(page.partition("const charts = ")[2].partition(";\n")[0])["f-against"]
    row = next(row for row in report.summary.rows if row.curve == "b" and row.strength == 4)
    point = next(p for p in chart["data"]["values"] if (p["value"], p["series"], p["strength"]) == (10, "x", 4))
    assert point["percent"] == 100 * row.averaged.estimate
    assert {(p["value"], p["series"]) for p in chart["data"]["values"]} == set(places.values())


PAPERS = {  # as the paper's text says them
    ("fgsm", "", "own"): {0: 89.8, 1: 66.3, 2: 56.4},
    ("fgsm", "sap:100", "own"): {0: 83.3, 1: 78.5, 2: 72.7},
    ("iterative", "", "own"): {0: 89.8, 1: 66.3, 2: 50.1, 4: 31.0},
    ("iterative", "sap:100", "own"): {0: 83.3, 1: 82.0, 2: 80.2, 4: 76.7},
    ("iterative", "sap:100", "dense"): {0: 83.3, 1: 75.2, 2: 67.0, 4: 50.8},
}


@pytest.mark.parametrize(("attack", "defense", "adversary"), PAPERS)
def test_the_papers_accuracies_stand_beside_its_own_attacks_alone(attack, defense, adversary):
    gradient = MonteCarlo(10 if defense else 1)
    made = FGSM(gradient) if attack == "fgsm" else Iterative(1.0, gradient)
    plain = Network("preact-resnet20-dense", "digest")
    defended = replace(plain, defenses=parse_defenses(defense)) if defense else plain
    own = make_curve("a", shards=1, size=4, data="a", defender=defended).first
    cell = replace(own, attack=made, adversary=defended if adversary == "own" else plain)
    assert paper_accuracies(cell) == PAPERS[attack, defense, adversary]
    others = [
        replace(cell, threat=ThreatModel("l2")), replace(cell, defender=replace(defended, model="another")),
        replace(cell, attack=replace(made, gradient=MonteCarlo(10, loss="margin"))),
        replace(cell, attack=PGD(gradient)), replace(cell, attack=Iterative(2.0, gradient)),
    ]  # fmt: skip
    others += [replace(cell, attack=FGSM(MonteCarlo(9)))] if defense else []
    assert not any(paper_accuracies(other) for other in others)


def test_seven_points_apart_is_not_alike():
    """Of 5,000 images, so that the interval is narrow."""
    labels, found = np.zeros(5000, np.int64), {}
    for name, right in (("a", 0.50), ("b", 0.57)):
        of_label = np.where(np.arange(5000) < right * 5000, 0.9, 0.1)
        found[name] = {2.0: (np.stack([of_label, 1 - of_label], 1), labels)}
    assert judge(Claim("", "a", "alike", (2.0,), "b"), found).outcome == "does not hold"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fig1a", "--sticky", "0.3"), "`agents`, `games`, `seeds` and `sticky` are for a table of games"),
        (("fig1a", "--agents", "x"), "`agents`, `games`, `seeds` and `sticky` are for a table of games"),
        (("fig1a", "--games", "Bowling"), "`agents`, `games`, `seeds` and `sticky` are for a table of games"),
        (("fig1a", "--seeds", "2"), "`agents`, `games`, `seeds` and `sticky` are for a table of games"),
        (("table1", "--seeds", "0"), "`seeds` must be >= 1, got 0"),
        (("fig1a", "--outside", "resnet20@x"), "`outside` is a network for the study architectures"),
        (("table1", "--data", "x.npz"), "`data` are images, of which a table of games has none"),
        (("fig1a", "--data", "."), "or a path that ends in .npz, got the folder ."),
    ],
)
def test_options_of_the_other_half_are_refused(words, message):
    found = CliRunner().invoke(app, ["reproduce", *words, "--preset", "smoke", "--dry-run"])
    assert isinstance(found.exception, ValueError)
    assert message in str(found.exception)


def test_figures_are_planned_before_games_are_played(monkeypatch):
    monkeypatch.setattr("saplab.cli.verbs.reproduce._table", lambda *_: lambda: pytest.fail("games were played"))
    found = CliRunner().invoke(app, ["reproduce", "table1", "fig1a", "--preset", "smoke", "--limit", "5000"])
    assert isinstance(found.exception, ValueError)
    assert "`limit` must be at most 1000" in str(found.exception)

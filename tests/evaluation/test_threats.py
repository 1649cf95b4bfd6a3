"""Other norms and bounds from `saplab.evaluate` to the page: every number in the norm's own unit, and no word of λ."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.attacks import Attacker, ThreatModel, parse_attackers
from saplab.models.initialise import initialise
from saplab.paper.plan import study_curves
from saplab.paper.study import PRESETS, Figure, Line
from saplab.runs import ImageCell, Network
from saplab.runs.cell import cell_of

ATTACKS = [
    saplab.RandomNoise(), saplab.FGSM(saplab.MonteCarlo(2)), saplab.PGD(saplab.MonteCarlo(2), steps=3),
    saplab.Square(queries=10, passes=2),
]  # fmt: skip


@pytest.fixture(scope="module")
def table() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network on a standardised table, and 40 of its rows with the network's own labels."""
    net = initialise(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)), 0)
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    return net, rows, net(rows).argmax(1)


@pytest.fixture(scope="module")
def tabular(table: tuple[nn.Module, Tensor, Tensor]) -> saplab.Result:
    net, rows, labels = table
    sap = saplab.defend(net, saplab.SAP(100))
    return saplab.evaluate(
        sap, rows, labels, ATTACKS, eps=[0.25, 1.0], norm="l2", bounds=None, passes=4, progress=False
    )


def test_a_table_without_bounds_is_evaluated(tabular: saplab.Result) -> None:
    assert {(row["norm"], row["eps"], row["strength"]) for row in tabular.rows} == {
        ("l2", 0.0, None), ("l2", 0.25, None), ("l2", 1.0, None)
    }  # fmt: skip
    by_attack = {row["curve"]: row["averaged_percent"] for row in tabular.rows if row["eps"] == 1.0}
    assert by_attack["SAP-100: PGD-3 ×2 mask"] < by_attack["SAP-100: random noise"]
    assert tabular.verdict.sentence.startswith("Robust accuracy at ε = 1 in L2 (no bounds) is at most ")
    unbounded = next(check for check in tabular.verdict.checks if check.key == "unbounded")
    assert (unbounded.outcome, unbounded.how) == ("not run", None)
    assert unbounded.evidence == "it does not apply: no radius is known from which an attack must reach chance"


def test_no_text_or_page_speaks_of_pixel_steps(tabular: saplab.Result, tmp_path: Path) -> None:
    tabular.report(tmp_path)
    page = re.sub(r"(?s)<script.*?</script>", "", (tmp_path / "report.html").read_text())
    text = repr(tabular)
    for written in (page, text, tabular.plot().to_json(ensure_ascii=False)):
        assert "λ" not in written
        assert "0..255" not in written
    assert "ε = 0.25" in page
    assert "in L2 (no bounds)" in page
    assert "radius ε in L2 (no bounds)" in tabular.plot().to_json(ensure_ascii=False)
    assert "ε = 0.25" in text
    assert ",l2,0.0," in (tmp_path / "accuracy.csv").read_text().splitlines()[1]


def test_cells_carry_norm_and_bounds_and_come_back(tabular: saplab.Result) -> None:
    cell = tabular.request.cells[0]
    assert cell.threat == ThreatModel("l2", None)
    again = cell_of(cell.key)
    assert (again.digest, again.threat) == (cell.digest, cell.threat)
    assert "numerics" in cell.key
    assert cell.key["threat"] == {"norm": "l2", "bounds": None}


@pytest.fixture(scope="module")
def pictures() -> tuple[nn.Module, Tensor, Tensor]:
    net = initialise(nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 4)), 0)
    images = torch.rand(30, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return net, images, net(images).argmax(1)


def test_an_unbounded_l2_ball_holds_the_cube_of_half_the_range(pictures: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The attacker that a battery means to be unbounded gets √48/2, and the check reads it."""
    net, images, labels = pictures
    attacker = Attacker(saplab.PGD(steps=10), eps=(0.5,), unbounded=True)
    found = saplab.evaluate(net, images, labels, [saplab.FGSM(), attacker], norm="l2", progress=False)
    radius = 0.5 * 48**0.5
    wide = [curve for curve in found.request.curves if curve.eps == (radius,)]
    assert [curve.label for curve in wide] == [f"undefended: PGD-10 at ε={radius:g}"]
    assert found.request.curves[0].eps == (0.0, 0.125, 0.5)  # what papers report, since nothing else was asked
    check = next(check for check in found.verdict.checks if check.key == "unbounded")
    assert check.outcome == "passed"
    assert check.evidence.startswith(f"ε = {radius:g}: ")
    assert found.verdict.headline.eps == 0.5


def test_pixel_steps_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match=r"`lambda` counts pixel steps .* give `eps` 0.5 in L2 instead$"):
        parse_attackers("pgd:lambda=64", threat=ThreatModel("l2"))
    (attacker,) = parse_attackers("pgd:eps=0.5,steps=3", threat=ThreatModel("l2"))
    assert attacker == Attacker(saplab.PGD(steps=3), eps=(0.5,))
    with pytest.raises(ValueError, match="`eps` must be given where `bounds` is None"):
        saplab.evaluate(nn.Flatten(), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), bounds=None, progress=False)


def test_evidence_of_two_threat_models_is_not_judged_together(tabular: saplab.Result) -> None:
    runs = [
        saplab.Evidence.of(saplab.FGSM(), [0.5], torch.eye(3)[None], [0, 1, 2], threat=threat)
        for threat in (ThreatModel(), ThreatModel("l2"))
    ]
    with pytest.raises(ValueError, match="all evidence must be about one threat model, got 2"):
        saplab.verdict(runs, labels=[0, 1, 2])


def test_a_figure_of_a_study_has_its_own_norm(tabular: saplab.Result) -> None:
    line = Line("dense", "small")
    whole = tabular.request.cells[0]
    assert isinstance(whole, ImageCell)
    figure = Figure("mine", lines=(line,), strengths=(0.0, 0.5), norm="l2")
    (curve,) = study_curves([figure], PRESETS["smoke"], whole, {"small": Network("small", "0")})
    assert (curve.eps, curve.first.threat) == ((0.0, 0.5), ThreatModel("l2"))
    with pytest.raises(ValueError, match="`strengths` must be given where `norm` is l2"):
        Figure("mine", lines=(line,), norm="l2")

"""The page of games that an agent played, and what `saplab report` makes of their folder."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic import HOSTILE
from typer.testing import CliRunner

from saplab.attacks import FGSM, eps_of
from saplab.cli import app
from saplab.defenses import SAP
from saplab.evaluation.games import write_games
from saplab.runs import Curve, GameCell, GameResult, Network, Request, Store

AGENT = Network("agent:assault", "d" * 64)
DEFENDED = replace(AGENT, defenses=(SAP(100),))


def curve(label, network, points, against=""):
    attack = {strength: FGSM() if strength else None for strength in (0, 1, 2)}
    cells = tuple(
        GameCell(defender=network, adversary=network, attack=attack[strength], eps=(eps_of(strength),), start=0, stop=4,
                 passes=1 if network is AGENT else 5, game="assault")
        for strength in (0, 1, 2)
    )  # fmt: skip
    return Curve(label, cells, against=against), dict(zip(cells, points, strict=True))


@pytest.fixture
def store(tmp_path):
    plain, first = curve("original", AGENT, (300.0, 200.0, 50.0))
    sap, second = curve("SAP-100, mask backward", DEFENDED, (280.0, 220.0, 130.0), "original")
    made = Store.open(tmp_path / "games", Request("assault: points under attack", (plain, sap), "saplab play Assault"))
    spread = np.array([-10.0, 0.0, 0.0, 10.0])
    for cell, points in (first | second).items():
        made.save(cell, GameResult(points + spread, np.full(4, 100), {"seconds": 1.0}))
    return made


def test_the_page_has_the_picture_and_the_numbers(store):
    report = write_games(store)
    assert [path.name for path in report.files] == [
        "report.html", "points.csv", "points.parquet", "points.svg", "points.png", "points.pdf"
    ]  # fmt: skip
    page = report.files[0].read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert 'data-label="λ = 2"' in page
    assert "<b>130.0</b>" in page
    assert "<small>+160.0 %</small>" in page
    assert "the mean of 4 games" in page
    assert "src=" not in page.partition("<body>")[2].partition("<svg")[0]
    with report.files[1].open(encoding="utf-8") as lines:
        assert [float(row["points"]) for row in csv.DictReader(lines)] == [300, 200, 50, 280, 220, 130]


def test_the_command_writes_it_again(store):
    done = CliRunner().invoke(app, ["report", str(store.root), "--title", "My games", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["files"][0] == str(store.root / "report.html")
    assert "<h1>My games</h1>" in (store.root / "report.html").read_text(encoding="utf-8")


def test_nothing_played_is_no_page(tmp_path):
    plain, _ = curve("original", AGENT, (300.0, 200.0, 50.0))
    with pytest.raises(ValueError, match="holds no finished cell yet"):
        write_games(Store.open(tmp_path, Request("t", (plain,))))


def test_a_title_is_text(store):
    page = write_games(store, HOSTILE).files[0].read_text(encoding="utf-8")
    assert "<img src=x" not in page

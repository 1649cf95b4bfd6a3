"""``saplab certify``: the table, the JSON and the files; mistakes in one line."""

import csv
import json

import pytest
from typer.testing import CliRunner

from saplab.cli import app

RUN = ("certify", "--limit", "3", "--n0", "2", "--n", "12", "--alpha", "0.05", "--std", "0.05")


def test_table_json_and_files(tmp_path):
    found = CliRunner().invoke(app, [*RUN, "--out", str(tmp_path), "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["std"], told["n0"], told["n"], told["alpha"]) == (0.05, 2, 12, 0.05)
    assert "3 images, σ = 0.05, 12 passes, α = 0.05: abstains on" in found.stderr
    rows = list(csv.DictReader((tmp_path / "certificates.csv").read_text().splitlines()))
    assert [row["example"] for row in rows] == [str(image["example"]) for image in told["images"]]
    assert all(float(row["radius"]) <= told["ceiling"] + 1e-6 for row in rows)
    right = [row["label"] == row["predicted"] for row in rows]
    assert told["rows"][0]["percent"] == pytest.approx(100 * sum(right) / 3, abs=1e-3)
    assert {path.name for path in tmp_path.iterdir()} == {
        "certificates.csv", "certified.csv", "certified.png", "certified.svg",
    }  # fmt: skip


def test_what_attacks_leave_stands_beside(tmp_path):
    attack = ("--attack", "pgd:steps=2", "--samples", "2", "--passes", "4", "--eps", "0.2", "--seed", "1")
    found = CliRunner().invoke(app, [*RUN, *attack, "--out", str(tmp_path), "--json"])
    assert found.exit_code == 0, found.output
    left = json.loads(found.stdout)["left"]
    assert [one["radius"] for one in left] == [0.0, 0.2]
    assert left[1]["percent"] <= left[0]["percent"]
    assert "radius  0.200: under attack at most" in found.stderr
    assert len(list(csv.DictReader((tmp_path / "attacked.csv").read_text().splitlines()))) == 2


def test_labels_follow_the_names_of_folders(tmp_path):
    """... as in every verb: dogs are class 5, though theirs is the second folder."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name, shade in (("cat", 40), ("dog", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        image.new("RGB", (32, 32), (shade,) * 3).save(tmp_path / "pictures" / name / "one.png")
    asked = ("certify", "--data", str(tmp_path / "pictures"), "--image-size", "32", "--std", "0.05", "--n", "4")
    found = CliRunner().invoke(app, [*asked, "--n0", "2", "--json"])
    assert found.exit_code == 0, found.output
    assert [one["label"] for one in json.loads(found.stdout)["images"]] == [3, 5]
    assert "classes are matched by name: cat is 3, dog is 5" in found.stderr


def test_mistakes_are_refused():
    found = CliRunner().invoke(app, [*RUN, "--std", "0"])
    assert isinstance(found.exception, ValueError)
    assert "`std` must be > 0" in str(found.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--attack", "bogus"), "`attack` must be one of"),
        (("--attack", "pgd", "--eps", "x"), "`eps` must be numbers"),
        (("--attack", "pgd", "--passes", "0"), "`passes` must be >= 1"),
        (("--eps", "0.5"), "are those of an attack: give `attack` too"),
        (("--passes", "7"), "are those of an attack: give `attack` too"),
        (("--image-size", "64"), "`image-size` is for folders of pictures, and sample has a size of its own"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_before_anything_is_certified(words, message, monkeypatch):
    monkeypatch.setattr("saplab.evaluation.certificates.certify", lambda *_, **__: pytest.fail("it was certified"))
    found = CliRunner().invoke(app, [*RUN, *words])
    assert isinstance(found.exception, ValueError), found.output
    assert message in str(found.exception)


def test_certificates_are_written_before_they_are_attacked(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr("saplab.evaluation.evaluate.planned", fail)
    found = CliRunner().invoke(app, [*RUN, "--attack", "noise", "--out", str(tmp_path)])
    assert isinstance(found.exception, RuntimeError)
    assert (tmp_path / "certificates.csv").exists()

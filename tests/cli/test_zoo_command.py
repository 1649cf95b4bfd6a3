"""``saplab zoo``: the list, measuring again, and training all networks; small stands for large throughout."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from small_data import make_small_cifar10
from typer.testing import CliRunner

from saplab.cli.verbs import zoo as cli
from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.models import zoo as models
from saplab.models.packaged import Measured, read_packaged
from saplab.models.zoo import load_model
from saplab.training import zoo
from saplab.training.recipes import FIG_2_RATES

DENSE = "preact-resnet20-dense"


@pytest.fixture(scope="module")
def data() -> Records:
    return read_sample()


@pytest.fixture
def ten_images(data: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images of the sample in place of all."""
    monkeypatch.setattr(zoo, "read_sample", lambda: data.chosen(slice(10)))


def command(*arguments: str) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command("zoo")(cli.zoo)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["zoo", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def stored(monkeypatch: pytest.MonkeyPatch, *measured: Measured) -> None:
    monkeypatch.setitem(models.PACKAGED, DENSE, replace(models.PACKAGED[DENSE], measured=measured))


def test_the_list_shows_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    stored(monkeypatch, Measured("none", 0.0, 910, 1000, "sample"), Measured("PGD-20", 8.0, 0, 1000, "sample"))
    code, stdout, _ = command("--only", DENSE)
    assert code == 0
    assert "91.0 [89.1, 92.6]" in stdout
    assert "0.0 [0.0, 0.4]" in stdout
    assert models.PACKAGED[DENSE].sha256[:12] in stdout
    assert json.loads(command("--json")[1])[DENSE]["recipe"] == "dense"


def test_measured_again_as_stored_or_not(monkeypatch: pytest.MonkeyPatch, ten_images: None) -> None:
    clean = Measured("none", 0.0, 0, 0, "sample")
    found = zoo.measure_again(load_model(DENSE), clean, None)
    lost = Measured("PGD-20", 8.0, 0, 10, "sample")
    stored(monkeypatch, found, lost, Measured("none", 0.0, 9, 10, "test"))
    code, stdout, stderr = command("--check", "--only", DENSE, "--threads", "1", "--json")
    assert code == 0
    assert [row["ok"] for row in json.loads(stdout)] == [True, True]  # test images are not there to be measured on
    assert f"{DENSE}, clean: {found.correct} of 10 right, as stored\n" in stderr
    stored(monkeypatch, replace(found, correct=found.correct - 1))
    code, _, stderr = command("--check", "--only", DENSE)
    assert code == 1
    assert f"right, stored {found.correct - 1}: DIFFERS\n" in stderr
    assert "1 number of 1 network measured again, 0 as stored" in stderr


def test_what_rounding_may_move() -> None:
    clean, attacked = Measured("none", 0.0, 900, 1000, "sample"), Measured("PGD-20", 2.0, 500, 1000, "sample")
    for row, allowed in ((clean, 1), (attacked, 10)):
        assert zoo.agrees(row, replace(row, correct=row.correct + allowed))
        assert not zoo.agrees(row, replace(row, correct=row.correct - allowed - 1))
        assert not zoo.agrees(row, replace(row, images=999))


def test_pgd_takes_the_accuracy_of_the_dense_network(data: Records) -> None:
    few, dense = data.chosen(slice(20)), load_model(DENSE)
    clean = zoo.measure_again(dense, Measured("none", 0.0, 0, 0, "test"), few).correct
    weak, strong = zoo.measure(dense, few)
    assert (weak.attack, weak.strength, strong.strength, strong.images) == ("PGD-20", 2.0, 8.0, 20)
    assert strong.correct <= weak.correct < clean / 2
    with pytest.raises(ValueError, match="`data` must be given to measure on test images"):
        zoo.measure_again(dense, weak, None)


@pytest.mark.parametrize("preset", ["paper", "small", "smoke"])
def test_every_network_of_the_zoo_has_a_recipe(preset: str) -> None:
    choices = zoo.choose(preset, None)
    robust = "pgd" if preset == "paper" else "fast"
    rates = [f"preact-resnet20-dropout-{rate}" for rate in FIG_2_RATES]
    others = ["preact-resnet20-adversarial", f"preact-resnet20-{robust}", "preact-resnet20-sap-100"]
    trained = ("gaussian-0.12", "gaussian-0.25", "lwta", "pni", "rpf", "rse", "wca", "rna", "bat")
    published = [f"preact-resnet20-{name}" for name in trained]
    assert list(choices) == [DENSE, "resnet20-dense", *rates, *others, *published]
    assert len({json.dumps(choice.resolve().described()) for choice in choices.values()}) == len(choices)


def test_training_the_zoo_makes_its_files_and_goes_on(
    tmp_path: Path,
    ten_images: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_small_cifar10(tmp_path, monkeypatch)
    monkeypatch.setattr(zoo, "STEPS", 2)
    name, out = "preact-resnet20-dropout-0.2", tmp_path / "runs"
    changed = "--preset smoke --precision float32"
    arguments = f"--train {changed} --only {name} --data cifar10:{tmp_path} --out {out}".split()
    code, _, stderr = command(*arguments, "--threads", "1")
    assert code == 0
    assert "epoch 2/2" in stderr
    facts = read_packaged(out / "zoo")[name]
    assert [(row.attack, row.strength, row.images) for row in facts.measured] == [
        ("none", 0.0, 20), ("PGD-20", 2.0, 10), ("PGD-20", 8.0, 10)
    ]  # fmt: skip
    assert facts.command == (
        "saplab train dropout --preset smoke --rate 0.2 --precision float32 --data cifar10:DIR --threads 1"
    )
    assert facts.command in (out / "zoo" / f"{name}.md").read_text()
    load_model("preact-resnet20", out / "zoo" / f"{name}.safetensors")
    code, _, stderr = command(*arguments, "--threads", "1")
    assert "goes on after epoch 2 of 2\n" in stderr
    assert read_packaged(out / "zoo")[name] == facts


def test_zoo_refuses() -> None:
    for arguments, message in (
        (("--check", "--train"), "`check` and `train` exclude each other"),
        (("--only", "vgg"), "`only` must be one of .*preact-resnet20-dense.*, got 'vgg'"),
        (("--train", "--only", "vgg"), "`only` must be one of .*resnet20-dense.* for preset 'small', got 'vgg'"),
        (("--train", "--precision", "half"), "`precision` must be one of auto, float32, bfloat16, got 'half'"),
        (("--train", "--data", "sample"), "`data` must be 'cifar10:DIR', got 'sample'"),
    ):
        with pytest.raises(ValueError, match=message):
            command(*arguments)

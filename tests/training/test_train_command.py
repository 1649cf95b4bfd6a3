"""``saplab train``: its data, options and results, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from small_data import TINY, make_small_cifar10
from typer.testing import CliRunner

from saplab.cli.options import classes_of
from saplab.cli.verbs import train as cli
from saplab.learning.plot import save_plot
from saplab.models.identity import weights_digest
from saplab.models.packaged import Measured
from saplab.models.zoo import load_model
from saplab.training.card import FinishedRun, accuracy_text, wilson, write_card
from saplab.training.choice import Choice
from saplab.training.plot import history_chart
from saplab.training.recipes import RECIPES
from saplab.training.records import EpochRecord
from saplab.training.schedules import Steps

HISTORY = [
    EpochRecord(1, 0.1, 2.0, 0.2, 0.3, 1000.0, 60.0, 0.9),
    EpochRecord(2, 0.05, 1.5, 0.4, 0.5, 1200.0, 60.0, 0.9, 0.45, 0.125),
]


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_small_cifar10(tmp_path, monkeypatch)


def command(*arguments: str) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command("train")(cli.train)
    app.command("other")(lambda: None)  # one command alone would have no name
    result = CliRunner().invoke(app, ["train", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_command(small_cifar10: Path) -> None:
    out = small_cifar10 / "run"
    arguments = ["dense", "--preset", "smoke", "--data", f"cifar10:{small_cifar10}", "--out", str(out)]
    code, stdout, stderr = command(*arguments, "--threads", "1", "--json")
    assert code == 0
    result = json.loads(stdout)
    assert result["images"] == 20
    assert result["accuracy"] == result["correct"] / 20
    assert re.search(r"epoch 2/2: loss \d\.\d{4}, train .* %, test .* %, \d+ images/s, \d+ s\n$", stderr)
    assert weights_digest(load_model("preact-resnet20", out / "model.safetensors")) == result["digest"]
    card = (out / "model.md").read_text()
    assert f"({result['correct']} of 20 right" in card
    assert "Made by `saplab train dense --preset smoke --data cifar10:DIR --threads 1` with seed 0." in card
    assert (out / "history.svg").read_text().startswith("<svg")
    code, stdout, stderr = command(*arguments)
    assert code == 0
    assert stderr == "goes on after epoch 2 of 2\n"
    assert stdout.startswith(f"{out}: ")


def test_dropout_at_a_rate_on_the_other_network_through_another_defence(small_cifar10: Path) -> None:
    out = small_cifar10 / "run"
    options = ["--rate", "0.3", "--network", "resnet20", "--defense", "rna:0.01", "--epochs", "2", "--batch", "16"]
    code, _, _ = command(
        "dropout", "--preset", "smoke", *options, "--data", f"cifar10:{small_cifar10}", "--out", str(out)
    )
    assert code == 0
    card = (out / "model.md").read_text()
    assert "- defenses: Dropout(rate=0.3) + RandomNoisyActivations(std=0.01)\n" in card
    assert "Accuracy in float32, without the defences that it was trained with:" in card
    assert (
        f"`saplab train dropout --preset smoke {' '.join((*options[2:4], *options[:2], *options[4:]))} --data" in card
    )
    load_model("resnet20", out / "model.safetensors")


def test_a_published_network_and_noise_of_a_size(small_cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(TINY, preset="smoke", epochs=1, batch=8, images=16, schedule=Steps(((0.05, 1),)))
    for name, network in (("pni", "pni-resnet20"), ("gaussian", "preact-resnet20")):
        monkeypatch.setitem(RECIPES, (name, "smoke"), replace(tiny, name=name, network=network))
    data = ["--data", f"cifar10:{small_cifar10}"]
    out = small_cifar10 / "run"
    assert command("pni", "--preset", "smoke", *data, "--out", str(out / "pni"))[0] == 0
    card = (out / "pni" / "model.md").read_text()
    assert card.startswith("# pni-resnet20, trained by the recipe pni\n")
    assert "Accuracy in float32, of one pass, which draws for itself:" in card
    assert not load_model("pni-resnet20", out / "pni" / "model.safetensors").training
    assert command("gaussian", "--preset", "smoke", "--std", "0.12", *data, "--out", str(out / "gaussian"))[0] == 0
    card = (out / "gaussian" / "model.md").read_text()
    assert "- objective: Noisy(std=0.12)\n" in card
    assert "Accuracy in float32:\n" in card
    assert "`saplab train gaussian --preset smoke --std 0.12 --data cifar10:DIR`" in card
    with pytest.raises(ValueError, match="`std` belongs to the recipe 'gaussian', got it for 'dense'"):
        command("dense", "--std", "0.1", *data)


@pytest.mark.parametrize("channels", [1, 3])
def test_own_images_of_another_size_and_number_of_classes(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, ("dense", "smoke"), replace(TINY, preset="smoke", images=None, batch=8))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 12, 20, channels), np.uint8), np.arange(30) % 4
    np.savez(tmp_path / "own.npz", images=images, labels=labels, classes=np.array(["a", "b", "c", "d"]))
    arguments = ["dense", "--preset", "smoke", "--data", str(tmp_path / "own.npz")]
    code, stdout, _ = command(*arguments, "--out", str(tmp_path / "run"), "--json")
    assert code == 0
    assert json.loads(stdout)["images"] == 3  # one in ten is held out
    card = (tmp_path / "run" / "model.md").read_text()
    assert "- clean, on the training images that were held out" in card
    assert "--validation 3 --data own.npz" in card
    assert load_model("preact-resnet20", tmp_path / "run" / "model.safetensors").linear.out_features == 4
    tested = [*arguments, "--test", str(tmp_path / "own.npz"), "--out", str(tmp_path / "tested"), "--json"]
    assert json.loads(command(*tested)[1])["images"] == 30
    assert "--data own.npz --test own.npz" in (tmp_path / "tested" / "model.md").read_text()
    with pytest.raises(
        ValueError, match="`data` must have the classes of CIFAR-10, as preact-resnet20-fast has, got a"
    ):
        command("bat", "--preset", "smoke", "--data", str(tmp_path / "own.npz"), "--out", str(tmp_path / "bat"))


def test_own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setitem(RECIPES, ("dense", "smoke"), replace(TINY, preset="smoke", images=None, batch=8))
    for number in range(24):
        folder = tmp_path / "pictures" / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((30, 40, 3), 10 * number, np.uint8)).save(folder / f"{number}.png")
    out = tmp_path / "run"
    arguments = ["--data", str(tmp_path / "pictures"), "--image-size", "16", "--validation", "4", "--out", str(out)]
    code, stdout, _ = command("dense", "--preset", "smoke", *arguments)
    assert code == 0
    assert "of 4 right" in stdout
    assert "--data pictures --image-size 16" in (out / "model.md").read_text()
    assert classes_of(load_model("preact-resnet20", out / "model.safetensors")) == ("cats", "dogs")


def test_command_refuses(small_cifar10: Path, tmp_path: Path) -> None:
    data = f"cifar10:{small_cifar10}"
    for arguments, message in (
        (("dense",), "`recipe` and `data` must be given"),
        (("sparse", "--data", data), "`recipe` must be one of"),
        (("dense", "--data", "sample"), "`data` must not be 'sample' for training"),
        (("dense", "--data", data, "--rate", "0.1"), "`rate` belongs to the recipe 'dropout', got it for 'dense'"),
        (("dense", "--data", data, "--network", "vgg"), "`network` must be one of preact-resnet20, resnet20"),
        (("dense", "--data", data, "--defense", "sop:100"), "`defense` must be one of"),
        (("dense", "--data", data, "--epochs", "0"), "`epochs` must be >= 6"),
        (
            ("dense", "--data", data, "--device", "tpu"),
            "`device` must be auto, cpu or a device that is there, got 'tpu'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            command(*arguments, "--out", str(tmp_path / "never"))
    with pytest.raises(FileNotFoundError, match="no CIFAR-10 in"):
        command("dense", "--data", f"cifar10:{tmp_path}/absent")
    assert not (tmp_path / "never").exists()


def test_list_prints_every_recipe() -> None:
    code, stdout, _ = command("--list")
    assert code == 0
    heads = [line for line in stdout.splitlines() if not line.startswith(" ")]
    assert heads == [f"{name} --preset {preset}" for name, preset in RECIPES]
    assert '  objective: {"kind": "PreviousEpoch", "share": 0.2, "lam": 2}\n' in stdout


def test_a_choice_has_its_own_folder_and_command() -> None:
    assert Choice("dense", "small").folder() == "dense-small"
    through = Choice("dense", "small", defense="sap:100", epochs=20)
    assert through.folder() == "dense-small-sap-100-epochs-20"
    assert Choice("dense", "small", epochs=64).folder() != Choice("dense", "small", batch=64).folder()
    assert through.command(seed=3, threads=None) == (
        "saplab train dense --preset small --defense sap:100 --epochs 20 --data cifar10:DIR --seed 3"
    )
    low = Choice("adversarial", "paper", precision="bfloat16")
    assert low.folder() == "adversarial-paper-bfloat16"
    assert low.command(processes=2, threads=1) == (
        "torchrun --nproc-per-node 2 -m saplab train adversarial --preset paper --precision bfloat16 --data cifar10:DIR"
        " --threads 1"
    )


def test_a_precision_takes_the_place_of_the_presets() -> None:
    assert Choice("dense", "paper").resolve().precision == "float32"
    assert Choice("dense", "paper", precision="bfloat16").resolve().precision == "bfloat16"
    with pytest.raises(ValueError, match="`precision` must be one of auto, float32, bfloat16, got 'half'"):
        Choice("dense", "paper", precision="half").resolve()


# Card and plots


def test_wilson_interval_by_its_formula() -> None:
    n, k, z = 9_980, 9_100, 1.959963984540054
    p = k / n
    centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    expected = ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    row = Measured("none", 0.0, k, n, "test")
    assert wilson(row) == pytest.approx(expected, abs=1e-12)
    assert accuracy_text(row).startswith("91.18 % (9,100 of 9,980 right")


def test_card_says_how() -> None:
    measured = (Measured("none", 0.0, 91, 100, "test"), Measured("PGD-20", 8.0, 380, 1000, "sample"))
    finished = FinishedRun(TINY, 4, HISTORY, "saplab train dense", "a CPU, 2 threads", measured, "the test images")
    card = write_card(finished, "mine")
    for line in (
        "# mine: preact-resnet20, trained by the recipe dense\n",
        "- clean, on the test images: **91.00 % (91 of 100 right",
        "- under PGD-20, λ = 8 pixel steps, on the 1,000 images of the packaged sample: **38.00 % (380 of 1,000",
        "`saplab train dense` with seed 4",
        "- weight_decay: 0.0001\n",
        "- defenses: none\n",
        "- a CPU, 2 threads\n",
        "2.0 minutes for 2 epochs; training at a median 1100 images a second",
    ):
        assert line in card


def test_chart_shows_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    loss, accuracy = history_chart(HISTORY).to_dict()["vconcat"]
    assert [(row["x"], row["y"]) for row in loss["data"]["values"]] == [(1, 2.0), (2, 1.5)]
    rows = {(row["x"], row["of"]): row["y"] for row in accuracy["data"]["values"]}
    assert rows[2, "held-out images under attack"] == 12.5
    assert (1, "held-out images") not in rows
    assert len(rows) == 6
    names = accuracy["encoding"]["color"]["scale"]["domain"]
    assert set(names) == {name for _, name in rows}
    save_plot(history_chart(HISTORY), tmp_path)
    assert "training loss" in (tmp_path / "history.svg").read_text()
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="`history` must hold at least one epoch"):
        history_chart([])

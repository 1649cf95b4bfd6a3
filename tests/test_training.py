"""The training loop: its draws, its checkpoints, what stops it, and its command."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file
from scipy.stats import chisquare
from typer.testing import CliRunner

from saplab.cli.train import register
from saplab.data import cifar10
from saplab.data.cifar10 import Records
from saplab.data.sample import read_sample
from saplab.models.preact_resnet import preact_resnet20
from saplab.models.zoo import load_model, weights_digest
from saplab.training.augment import crop_and_flip, draw_shifts, shuffle, take
from saplab.training.card import Score, export, write_card
from saplab.training.checkpoint import EpochRecord
from saplab.training.loop import Diverged, describe, train
from saplab.training.progress import Silent
from saplab.training.recipes import RECIPES, Recipe, find_recipe
from saplab.training.schedules import Steps, WarmupLinear
from saplab.training.testing import count_correct

TINY = Recipe("dense", "tiny", epochs=3, batch=32, schedule=WarmupLinear(0.05, 1), precision="bfloat16", images=96)

GOLDEN_SHUFFLE = [3, 1, 0, 7, 6, 2, 4, 5]
GOLDEN_ROWS = [6, 5, 3, 5, 3, 5]
GOLDEN_COLUMNS = [8, 5, 7, 0, 6, 2]
GOLDEN_MIRRORED = [True, False, False, True, False, True]


@pytest.fixture(scope="module")
def data() -> Records:
    return read_sample()


def part(data: Records, stop: int) -> Records:
    return Records(data.images[:stop], data.labels[:stop], data.indices[:stop])


# Draws


def test_crops_are_shifts_of_the_padded_image() -> None:
    images = np.random.default_rng(0).integers(1, 256, (40, 3, 6, 5), np.uint8)
    shifts = draw_shifts(seed=3, epoch=1, count=40, pad=2, flip=True)
    crops = crop_and_flip(images, shifts, pad=2)
    for image, crop, row, column, mirrored in zip(
        images, crops, shifts.rows, shifts.columns, shifts.mirrored, strict=True
    ):
        for channel, y, x in np.ndindex(3, 6, 5):
            source_y, source_x = y + row - 2, (4 - x if mirrored else x) + column - 2
            inside = 0 <= source_y < 6 and 0 <= source_x < 5
            assert crop[channel, y, x] == (image[channel, source_y, source_x] if inside else 0)
    assert shifts.mirrored.any()
    assert not shifts.mirrored.all()


def test_no_padding_and_no_flip_is_the_identity() -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    assert np.array_equal(crop_and_flip(images, draw_shifts(0, 0, 2, pad=0, flip=False), pad=0), images)


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    few, many = draw_shifts(5, 2, 10, 4, True), draw_shifts(5, 2, 1000, 4, True)
    chosen = np.array([7, 3])
    for name in ("rows", "columns", "mirrored"):
        assert np.array_equal(getattr(few, name), getattr(many, name)[:10])
        assert np.array_equal(getattr(take(few, chosen), name), getattr(many, name)[chosen])
    others = [draw_shifts(6, 2, 1000, 4, True), draw_shifts(5, 3, 1000, 4, True)]
    assert all(not np.array_equal(many.rows, other.rows) for other in others)


def test_crops_and_flips_are_uniform() -> None:
    shifts = draw_shifts(seed=0, epoch=0, count=81 * 2 * 500, pad=4, flip=True)
    assert (shifts.rows.min(), shifts.rows.max(), shifts.columns.min(), shifts.columns.max()) == (0, 8, 0, 8)
    cells = np.bincount((shifts.rows * 9 + shifts.columns) * 2 + shifts.mirrored, minlength=162)
    assert chisquare(cells).pvalue > 1e-3


def test_shuffles_are_permutations_of_their_own() -> None:
    first, second = shuffle(0, 0, 1000), shuffle(0, 1, 1000)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, shuffle(1, 0, 1000))
    assert np.array_equal(first, shuffle(0, 0, 1000))
    landed = np.array([np.flatnonzero(shuffle(0, epoch, 10) == 0)[0] for epoch in range(2000)])
    assert chisquare(np.bincount(landed, minlength=10)).pvalue > 1e-3


def test_golden_draws() -> None:
    """Another NumPy or another machine must go on with the same draws."""
    shifts = draw_shifts(seed=1, epoch=2, count=6, pad=4, flip=True)
    golden = (GOLDEN_SHUFFLE, GOLDEN_ROWS, GOLDEN_COLUMNS, GOLDEN_MIRRORED)
    assert (
        shuffle(1, 2, 8).tolist(),
        shifts.rows.tolist(),
        shifts.columns.tolist(),
        shifts.mirrored.tolist(),
    ) == golden


# Recipes


def test_the_papers_recipe() -> None:
    paper = find_recipe("dense", "paper")
    assert (paper.momentum, paper.weight_decay, paper.batch, paper.epochs) == (0.9, 1e-4, 512, 150)
    rates = [paper.schedule.rate(progress, 150) for progress in (0, 99.99, 100, 129.9, 130, 149.9, 150)]
    assert rates == [0.5, 0.5, 0.05, 0.05, 0.005, 0.005, 0.005]


def test_warm_up_and_linear_fall() -> None:
    schedule = WarmupLinear(peak=0.2, warmup=5)
    rates = [schedule.rate(progress, 45) for progress in (0, 2.5, 5, 25, 45)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.1, 0])


def test_wrong_recipes() -> None:
    with pytest.raises(
        ValueError, match="`recipe` must be one of adversarial, dense, dropout, fast, pgd, trades, got 'dens'"
    ):
        find_recipe("dens", "small")
    with pytest.raises(ValueError, match="`preset` must be one of paper, small, smoke for recipe 'dense', got 'big'"):
        find_recipe("dense", "big")
    with pytest.raises(ValueError, match="`epochs` must be >= 6 for this learning rate, got 5"):
        replace(find_recipe("dense", "small"), epochs=5)
    with pytest.raises(ValueError, match="`epochs` must be >= 1"):
        replace(find_recipe("dense", "paper"), epochs=0)
    with pytest.raises(ValueError, match="`batch` must be >= 1, got 0"):
        replace(TINY, batch=0)


# The loop


@pytest.fixture(scope="module")
def unbroken(data: Records, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe, with its weights exported."""
    out = tmp_path_factory.mktemp("unbroken")
    model, history = train(TINY, data, part(data, 50), out, seed=4, threads=1)
    assert len(history) == 3
    assert not model.training
    export(model, "card", out)
    return out


KILLED = """
import os, signal, sys
from pathlib import Path
from saplab.data.cifar10 import Records
from saplab.data.sample import read_sample
from saplab.training.loop import train
from saplab.training.progress import Silent
from saplab.training.recipes import Recipe
from saplab.training.schedules import WarmupLinear

class Killer(Silent):
    def on_step(self, epoch, step, loss, accuracy):
        if (epoch, step) == (2, 2):
            os.kill(os.getpid(), signal.SIGKILL)

recipe = Recipe("dense", "tiny", epochs=3, batch=32, schedule=WarmupLinear(0.05, 1), precision="bfloat16", images=96)
data = read_sample()
test = Records(data.images[:50], data.labels[:50], data.indices[:50])
train(recipe, data, test, Path(sys.argv[1]), seed=4, threads=1, progress=Killer())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL exists on POSIX only")
def test_killed_and_resumed_equals_unbroken(data: Records, unbroken: Path, tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (tmp_path / ".checkpoint.safetensors.999999999.0.tmp").touch()  # as if it had been killed while it wrote
    assert process.returncode == -signal.SIGKILL
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1
    model, history = train(TINY, data, part(data, 50), tmp_path, seed=4, threads=1)
    export(model, "card", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    ours, theirs = (load_file(out / "checkpoint.safetensors") for out in (tmp_path, unbroken))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert without_times(tmp_path) == without_times(unbroken)
    assert [record.epoch for record in history] == [1, 2, 3]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in unbroken.iterdir()}


def without_times(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second", "busy")} for row in rows]


def test_a_finished_run_is_read_not_repeated(data: Records, unbroken: Path) -> None:
    class Never(Silent):
        def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
            raise AssertionError("a finished run took a step")

    model, _ = train(TINY, data, part(data, 50), unbroken, seed=4, threads=1, progress=Never())
    stored = load_file(unbroken / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())


def test_training_learns_and_leaves_global_state_alone(data: Records, tmp_path: Path) -> None:
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    threads = torch.get_num_threads()
    recipe = replace(TINY, epochs=8, images=64, pad=0, flip=False)
    _, history = train(recipe, data, None, tmp_path, threads=1)
    assert history[-1].train_loss < 0.7 * history[0].train_loss
    assert history[-1].test_accuracy is None
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert random.getstate() == python_state
    assert torch.get_num_threads() == threads


def test_another_run_is_refused_and_nothing_overwritten(data: Records, unbroken: Path) -> None:
    before = {path.name: path.read_bytes() for path in unbroken.iterdir()}
    others = (
        (TINY, data, 5, r"its seed is 4, asked for 5"),
        (replace(TINY, weight_decay=0.0), data, 4, r"its recipe is .*'weight_decay': 0\.0001.*'weight_decay': 0\.0"),
        (TINY, Records(data.images[::-1].copy(), data.labels, data.indices), 4, "its data is"),
    )
    for recipe, images, seed, message in others:
        with pytest.raises(ValueError, match=rf"checkpoint\.safetensors belongs to another run: {message}"):
            train(recipe, images, part(data, 50), unbroken, seed=seed, threads=1)
    assert {path.name: path.read_bytes() for path in unbroken.iterdir()} == before


def test_the_request_tells_schedules_apart(data: Records) -> None:
    few = part(data, 2)
    described = [describe(replace(TINY, schedule=s), few, None, 0) for s in (WarmupLinear(0.1, 1), Steps(((0.1, 1),)))]
    assert described[0] != described[1]
    assert json.loads(json.dumps(described[0]))["recipe"]["schedule"]["kind"] == "WarmupLinear"


def test_nan_stops_and_keeps_the_last_good_checkpoint(data: Records, tmp_path: Path) -> None:
    recipe = replace(TINY, schedule=Steps(((0.01, 1), (1e30, 2))))
    with pytest.raises(Diverged, match=r"training stopped in epoch 2: the loss .* holds epoch 1$"):
        train(recipe, data, None, tmp_path, threads=1)
    tensors = load_file(tmp_path / "checkpoint.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


def test_weights_that_the_last_step_ruined_are_not_kept(data: Records, tmp_path: Path) -> None:
    recipe = replace(TINY, images=32, schedule=Steps(((float("inf"), 3),)))
    with pytest.raises(Diverged, match=r"training stopped in epoch 1: the weights .* no epoch was finished"):
        train(recipe, data, None, tmp_path, threads=1)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_checkpoint_before(data: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(Silent):
        def on_epoch(self, record: EpochRecord) -> None:
            def fail(descriptor: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match=r"no space left .*checkpoint\.safetensors"):
        train(replace(TINY, images=32), data, None, tmp_path, seed=4, threads=1, progress=FullDisk())
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.jsonl"]
    _, history = train(replace(TINY, images=32), data, None, tmp_path, seed=4, threads=1)
    assert len(history) == 3


def test_ctrl_c_keeps_the_last_checkpoint(data: Records, tmp_path: Path) -> None:
    class Interrupted(Silent):
        def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(TINY, images=32), data, None, tmp_path, threads=1, progress=Interrupted())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.jsonl"]


def test_damaged_checkpoint(data: Records, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is no readable checkpoint"):
        train(TINY, data, None, tmp_path)
    export(preact_resnet20(), "card", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        train(TINY, data, None, tmp_path)


def test_wrong_arguments(data: Records, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`seed` must be in 0 \.\. 2\*\*63 - 1, got -1"):
        train(TINY, data, None, tmp_path, seed=-1)
    with pytest.raises(ValueError, match="`data` must hold at least 96 images, got 50"):
        train(TINY, part(data, 50), None, tmp_path)
    with pytest.raises(ValueError, match="`threads` must be >= 1, got 0"):
        train(TINY, data, None, tmp_path, threads=0)
    (tmp_path / "history.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="holds a training history without a checkpoint"):
        train(TINY, data, None, tmp_path)


# The card and the command


def test_wilson_interval_by_its_formula() -> None:
    n, k, z = 9_980, 9_100, 1.959963984540054
    p = k / n
    centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    expected = ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    assert Score(k, n).interval() == pytest.approx(expected, abs=1e-12)
    assert str(Score(k, n)).startswith("91.18 % (9,100 of 9,980 right")


def test_card_says_how() -> None:
    history = [EpochRecord(1, 0.1, 2.0, 0.2, 0.3, 1000.0, 60.0)]
    card = write_card(TINY, 4, Score(91, 100), history, "saplab train dense", "a CPU, 2 threads")
    for line in ("`saplab train dense` with seed 4", "91.00 % (91 of 100 right", "- weight_decay: 0.0001"):
        assert line in card
    assert "- a CPU, 2 threads\n" in card
    assert "1.0 minutes for 1 epochs; training at a median 1000 images a second" in card


def test_count_correct_by_hand(data: Records) -> None:
    class Constant(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(images),), 3), 10).float()

    assert count_correct(Constant(), data) == 100
    assert count_correct(Constant(), part(data, 7), batch=2) == int((data.labels[:7] == 3).sum())


@pytest.fixture
def small_cifar10(data: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packaged sample in the place of CIFAR-10: 5 x 20 training images and 20 test images."""
    monkeypatch.setattr(cifar10, "RECORDS_PER_FILE", 20)
    monkeypatch.setitem(RECIPES, ("dense", "smoke"), replace(TINY, preset="smoke", images=64, epochs=2))
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    rows = np.column_stack([data.labels.astype(np.uint8), data.images.reshape(len(data), -1)])
    for number, name in enumerate(names):
        rows[20 * number : 20 * (number + 1)].tofile(folder / f"{name}.bin")
    return tmp_path


def command(*arguments: str) -> tuple[int, str, str]:
    app = typer.Typer()
    register(app)
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
    assert f"({result['correct']} of 20 right" in (out / "card.md").read_text()
    code, stdout, stderr = command(*arguments)
    assert code == 0
    assert stderr == "goes on after epoch 2 of 2\n"
    assert stdout.startswith(f"{out}: ")


def test_command_refuses(small_cifar10: Path, tmp_path: Path) -> None:
    data = f"cifar10:{small_cifar10}"
    for arguments, message in (
        (("sparse", "--data", data), "`recipe` must be one of"),
        (("dense", "--data", "sample"), "`data` must be 'cifar10:DIR', got 'sample'"),
        (("dense", "--data", data, "--rate", "0.1"), "`rate` belongs to the recipe 'dropout', got it for 'dense'"),
        (("dense", "--data", data, "--network", "vgg"), "`network` must be one of preact-resnet20, resnet20"),
        (("dense", "--data", data, "--epochs", "0"), "`epochs` must be >= 6"),
    ):
        with pytest.raises(ValueError, match=message):
            command(*arguments, "--out", str(tmp_path / "never"))
    with pytest.raises(FileNotFoundError, match="no CIFAR-10 in"):
        command("dense", "--data", f"cifar10:{tmp_path}/absent")
    assert not (tmp_path / "never").exists()

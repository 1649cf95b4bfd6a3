"""The training loop: its checkpoints, what stops it, and that it goes on with the same bits."""

import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.learning.progress import Progress
from saplab.training.loop import Diverged, describe, train
from saplab.training.place import Place
from saplab.training.recipes import Recipe
from saplab.training.records import EpochRecord
from saplab.training.schedules import Steps, WarmupLinear

TINY = Recipe("dense", "tiny", epochs=3, batch=32, schedule=WarmupLinear(0.05, 1), precision="bfloat16", images=96)


@pytest.fixture(scope="module")
def data() -> Records:
    return read_sample()


def save_model(model: torch.nn.Module, out: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out / "model.safetensors")


def part(data: Records, stop: int) -> Records:
    return data.chosen(slice(stop))


@pytest.fixture(scope="module")
def unbroken(data: Records, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe, with its weights exported."""
    out = tmp_path_factory.mktemp("unbroken")
    model, history = train(TINY, data, part(data, 50), out, seed=4, threads=1)
    assert len(history) == 3
    assert not model.training
    save_model(model, out)
    return out


KILLED = """
import os, signal, sys
from pathlib import Path
from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.learning.progress import Progress
from saplab.training.loop import train
from saplab.training.recipes import Recipe
from saplab.training.schedules import WarmupLinear

class Killer(Progress):
    def on_step(self, step, numbers):
        if step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

recipe = Recipe("dense", "tiny", epochs=3, batch=32, schedule=WarmupLinear(0.05, 1), precision="bfloat16", images=96)
data = read_sample()
train(recipe, data, data.chosen(slice(50)), Path(sys.argv[1]), seed=4, threads=1, progress=Killer())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL exists on POSIX only")
def test_killed_and_resumed_equals_unbroken(data: Records, unbroken: Path, tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "5"], check=False)
    host = re.sub(r"\W", "-", socket.gethostname())
    (tmp_path / f".checkpoint.safetensors.999999999@{host}.0.tmp").touch()  # as if it had been killed while it wrote
    assert process.returncode == -signal.SIGKILL
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1
    model, history = train(TINY, data, part(data, 50), tmp_path, seed=4, threads=1)
    save_model(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    ours, theirs = (load_file(out / "checkpoint.safetensors") for out in (tmp_path, unbroken))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert without_times(tmp_path) == without_times(unbroken)
    assert [record.epoch for record in history] == [1, 2, 3]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in unbroken.iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL exists on POSIX only")
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_three_times_at_random_equals_unbroken(seed: int, data: Records, unbroken: Path, tmp_path: Path) -> None:
    for step in sorted(np.random.default_rng(seed).integers(1, 10, 3)):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(step)], check=False)
    model, _ = train(TINY, data, part(data, 50), tmp_path, seed=4, threads=1)
    save_model(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert without_times(tmp_path) == without_times(unbroken)


def without_times(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second", "busy")} for row in rows]


@pytest.mark.parametrize("native", [True, False])
def test_a_preset_computes_in_what_the_processor_has(
    native: bool, data: Records, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where bfloat16 is in hardware is a run by ``auto`` the one in bfloat16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    save_model(train(replace(TINY, precision="auto"), data, part(data, 50), tmp_path, seed=4, threads=1)[0], tmp_path)
    ours, theirs = ((out / "model.safetensors").read_bytes() for out in (tmp_path, unbroken))
    assert (ours == theirs) == native


def test_a_finished_run_is_read_not_repeated(data: Records, unbroken: Path) -> None:
    class Never(Progress):
        def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
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
        (TINY, replace(data, images=data.images[::-1].copy()), 4, "its data is"),
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
    class FullDisk(Progress):
        def on_record(self, record: EpochRecord) -> None:
            def fail(descriptor: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match=r"no space left .*checkpoint\.safetensors"):
        train(replace(TINY, images=32), data, None, tmp_path, seed=4, threads=1, progress=FullDisk())
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.jsonl"]
    _, history = train(replace(TINY, images=32), data, None, tmp_path, seed=4, threads=1)
    assert len(history) == 3


class Interrupted(Progress):
    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        if numbers["epoch"] == 2:
            raise KeyboardInterrupt


def test_ctrl_c_keeps_the_last_checkpoint(data: Records, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(replace(TINY, images=32), data, None, tmp_path, threads=1, progress=Interrupted())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.jsonl"]


def far(data: Records) -> Records:
    """Label one image as none is, which cross-entropy would leave out without a word."""
    labels = data.labels.copy()
    labels[7] = -100
    return replace(data, labels=labels, classes=())


def test_a_recipe_without_momentum_is_resumed(data: Records, tmp_path: Path) -> None:
    recipe = replace(TINY, momentum=0.0, nesterov=False, precision="float32", images=32, epochs=2)
    whole, _ = train(recipe, data, None, tmp_path / "whole", seed=4, threads=1)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, None, tmp_path / "parts", threads=1, seed=4, progress=Interrupted())
    parts, _ = train(recipe, data, None, tmp_path / "parts", seed=4, threads=1)
    for one, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_wrong_arguments(data: Records, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`seed` must be in 0 \.\. 2\*\*63 - 1, got -1"):
        train(TINY, data, None, tmp_path, seed=-1)
    with pytest.raises(ValueError, match="`data` must hold at least 96 images, got 50"):
        train(TINY, part(data, 50), None, tmp_path)
    with pytest.raises(ValueError, match="`threads` must be >= 1, got 0"):
        train(TINY, data, None, tmp_path, threads=0)
    with pytest.raises(ValueError, match=r"`test` must have the classes of `data`, airplane, .* got cat, dog"):
        train(TINY, data, replace(data, classes=("cat", "dog")), tmp_path)
    for name, given in (("data", (far(data), None)), ("test", (replace(data, classes=()), far(data)))):
        with pytest.raises(ValueError, match=rf"`{name}` must have labels in 0\.\.9, got -100 to 9"):
            train(TINY, *given, tmp_path)
    with pytest.raises(ValueError, match="`warmup` must be > 0, got 0"):
        WarmupLinear(0.1, 0)
    with pytest.raises(ValueError, match="`batch` must be a multiple of the 5 processes, got 32"):
        train(TINY, data, None, tmp_path, place=Place(world=5))
    (tmp_path / "history.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="holds a training history without a checkpoint"):
        train(TINY, data, None, tmp_path)


def test_a_run_is_told_from_one_with_other_classes_or_numbers_of_images() -> None:
    data = read_sample()
    requests = [
        describe(TINY, one, None, 0)
        for one in (data, replace(data, classes=(*data.classes, "more")), replace(data, indices=data.indices[::-1]))
    ]
    assert "classes" not in requests[0]
    assert len({json.dumps(request) for request in requests}) == 3

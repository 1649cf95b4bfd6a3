"""Whole runs of a linear classifier against steps computed by hand, and which images a run sees."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.learning.progress import Progress
from saplab.models.initialise import initialise
from saplab.models.zoo import ARCHITECTURES
from saplab.training.augment import held_out_positions, shuffle
from saplab.training.loop import train
from saplab.training.objectives import CrossEntropy
from saplab.training.recipes import Recipe
from saplab.training.records import EpochRecord
from saplab.training.schedules import Steps, WarmupLinear
from saplab.training.steps import Step

SEED, PIXELS, CLASSES = 5, 3 * 32 * 32, 10
RECIPE = Recipe(
    "dense", "tiny", epochs=3, batch=16, schedule=WarmupLinear(peak=0.003, warmup=1), weight_decay=0.5,
    network="linear", pad=0, flip=False,
)  # fmt: skip
WARM_UP = [0.0, 0.001, 0.002, 0.003, 0.0025, 0.002, 0.0015, 0.001, 0.0005]  # three steps an epoch
FALLS = replace(RECIPE, schedule=Steps(((0.002, 1), (0.0005, 2))), momentum=0.5, weight_decay=0.1)


def linear(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes))


@pytest.fixture(autouse=True)
def linear_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "linear", linear)


@pytest.fixture(scope="module")
def data() -> Records:
    return read_sample().chosen(slice(50))


def by_hand(recipe: Recipe, rates: Sequence[float], data: Records) -> np.ndarray:
    """Take the steps of Nesterov 1983 as Sutskever et al. 2013 write them, in float64; weights and bias (10, 3073).

    g is the gradient of the mean cross-entropy plus decay · w; v ← μ v + g; w ← w - rate · (g + μ v), or rate · v.
    """
    first = initialise(linear(CLASSES), SEED)[1]
    w = torch.cat((first.weight, first.bias[:, None]), 1).detach().double().numpy()
    x = np.column_stack((data.images.reshape(len(data), -1) / 255, np.ones(len(data))))
    v, number = np.zeros_like(w), 0
    for epoch in range(recipe.epochs):
        order = shuffle(SEED, epoch, len(data))
        for start in range(0, len(data) - recipe.batch + 1, recipe.batch):
            chosen = order[start : start + recipe.batch]
            scores = np.exp(x[chosen] @ w.T)
            errors = scores / scores.sum(1, keepdims=True) - np.eye(CLASSES)[data.labels[chosen]]
            gradient = errors.T @ x[chosen] / recipe.batch + recipe.weight_decay * w
            v = recipe.momentum * v + gradient
            w = w - rates[number] * (gradient + recipe.momentum * v if recipe.nesterov else v)
            number += 1
    return w


@pytest.mark.parametrize(
    ("recipe", "rates"),
    [
        (RECIPE, WARM_UP),
        (replace(RECIPE, nesterov=True), WARM_UP),
        (FALLS, [0.002] * 3 + [0.0005] * 6),
        (replace(FALLS, nesterov=True, weight_decay=0.0), [0.002] * 3 + [0.0005] * 6),
    ],
    ids=["warm-up", "warm-up, Nesterov", "steps", "steps, Nesterov, no decay"],
)
def test_every_step_is_that_of_the_recipe(recipe: Recipe, rates: list[float], data: Records, tmp_path: Path) -> None:
    model, history = train(recipe, data, None, tmp_path, SEED, threads=1)
    found = torch.cat((model[1].weight, model[1].bias[:, None]), 1).detach().numpy()
    np.testing.assert_allclose(found, by_hand(recipe, rates, data), rtol=0, atol=2e-6)
    assert [record.lr for record in history] == pytest.approx(rates[2::3])


@dataclass(frozen=True)
class Noting(CrossEntropy):
    """Notes the images of every step."""

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        SEEN.append((step.images, step.labels, step.examples))
        return super().loss(step)


SEEN: list[tuple[Tensor, Tensor, Tensor]] = []


def test_held_out_images_are_never_trained_on(data: Records, tmp_path: Path) -> None:
    SEEN.clear()
    recipe = replace(RECIPE, epochs=12, batch=11, objective=Noting(), held_out=17)
    train(recipe, data, None, tmp_path, SEED, threads=1)
    images, labels, examples = (torch.cat(column) for column in zip(*SEEN, strict=True))
    held_out = set(data.indices[held_out_positions(len(data), 17)].tolist())
    assert len(held_out) == 17
    assert set(examples.tolist()) == set(data.indices.tolist()) - held_out
    positions = np.searchsorted(data.indices, examples.numpy())
    assert np.array_equal((images * 255).round().numpy(), data.images[positions])
    assert np.array_equal(labels.numpy(), data.labels[positions])


def test_the_accuracy_on_held_out_images_is_theirs(data: Records, tmp_path: Path) -> None:
    recipe = replace(RECIPE, held_out=17)
    model, history = train(recipe, data, None, tmp_path, SEED, threads=1)
    out = data.chosen(np.sort(held_out_positions(len(data), 17)))
    right = (model(torch.from_numpy(out.images / np.float32(255))).argmax(1).numpy() == out.labels).sum()
    assert history[-1].held_out_accuracy == right / 17


def test_a_recipe_that_leaves_no_full_batch_is_refused(data: Records, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`data` must hold at least 51 images, got 50"):
        train(replace(RECIPE, images=50, held_out=35), data, None, tmp_path)


def test_every_step_is_reported_with_the_means_so_far(data: Records, tmp_path: Path) -> None:
    class Log(Progress[EpochRecord]):
        def on_start(self, history, done, total):
            told.append((list(history), done, total))

        def on_step(self, step, numbers):
            told.append((step, numbers["epoch"]))
            means.append((numbers["loss"], numbers["accuracy"]))

        def on_record(self, record):
            told.append(record.epoch)

    told: list[object] = []
    means: list[tuple[float, float]] = []
    _, history = train(replace(RECIPE, epochs=2), data, None, tmp_path, SEED, threads=1, progress=Log())
    assert told == [([], 0, 6), (1, 1), (2, 1), (3, 1), 1, (4, 2), (5, 2), (6, 2), 2]
    assert means[2::3] == [(record.train_loss, record.train_accuracy) for record in history]
    told.clear()
    train(replace(RECIPE, epochs=2), data, None, tmp_path, SEED, threads=1, progress=Log())
    assert told == [(history, 6, 6)]

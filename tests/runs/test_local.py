"""The engine in this process: what cells that share images cost, and that sharing changes no number."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from saplab.attacks import FGSM, PGD, MonteCarlo, RandomNoise
from saplab.attacks.batteries import settings_of
from saplab.data.dataset import Dataset
from saplab.models.initialise import initialise
from saplab.runs.cell import Cell, Network
from saplab.runs.groups import cost_of, groups, work_of
from saplab.runs.images import Inputs, compute
from saplab.runs.store import join

DENSE = Network("net", "a" * 64)
SAP = replace(DENSE, defense="sap:100")


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    layers = (nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 4))
    network = initialise(nn.Sequential(*layers), 0).eval()
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 4
    data = Dataset("data", images, labels, torch.arange(12), ("a", "b", "c", "d"))
    return Inputs({("net", DENSE.digest): network}, data)


def cell(attack=None, defender: Network = SAP, **changes: object) -> Cell:
    whole = Cell(
        defender, defender, settings_of(attack or FGSM(MonteCarlo(10))), (0.0, 2.0, 8.0), "b" * 64, 0, 12, 4, 0
    )
    return replace(whole, **changes)


def predictions(result):
    return {name: getattr(result, name) for name in ("probs", "votes", "half", "single")}


def test_smaller_budgets_come_with_the_largest(inputs):
    cells = [cell(FGSM(MonteCarlo(n))) for n in (1, 4, 10)]
    (group,) = groups(cells)
    for together, alone in zip(compute(group, inputs), [compute((c,), inputs)[0] for c in cells], strict=True):
        for name, values in predictions(together).items():
            np.testing.assert_allclose(values, predictions(alone)[name], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(together.gradient_norm, alone.gradient_norm, rtol=1e-4)
    assert work_of(group) == work_of((cells[2],)) + sum(c.passes * 3 * 12 for c in cells[:2])


def test_two_defenders_meet_the_same_images(inputs):
    attack = PGD(MonteCarlo(2), steps=3)
    own, across = cell(attack), cell(attack, defender=DENSE, adversary=SAP, passes=1)
    (group,) = groups([own, across])
    results = compute(group, inputs)
    for together, single in zip(results, (own, across), strict=True):
        (alone,) = compute((single,), inputs)
        for name, values in predictions(together).items():
            assert np.array_equal(values, predictions(alone)[name]), name


@pytest.mark.parametrize("attack", [FGSM(MonteCarlo(7)), PGD(MonteCarlo(2), steps=3), RandomNoise()])
@pytest.mark.parametrize("strengths", [(0.0, 2.0, 8.0), (8.0, 0.5), (0.0,)])
def test_ticks_add_up_to_the_work(inputs, attack, strengths):
    group = (
        cell(attack, strengths=strengths),
        cell(attack, strengths=strengths, defender=DENSE, adversary=SAP, passes=1),
    )
    ticks: list[int] = []
    compute(group, inputs, ticks.append)
    assert sum(ticks) == work_of(group)
    cost = cost_of(group)
    assert work_of(group) == cost.forward + 2 * cost.backward


def test_untouched_images_are_predicted_once_for_all_attacks(inputs):
    fresh = replace(inputs, clean={})
    first, second = (compute((cell(attack),), fresh)[0] for attack in (FGSM(MonteCarlo(2)), RandomNoise()))
    assert len(fresh.clean) == 1
    assert np.array_equal(first.probs[0], second.probs[0])
    assert not np.array_equal(first.probs[2], second.probs[2])


def test_shards_join_to_the_whole(inputs):
    whole = compute((cell(),), inputs)[0]
    parts = [compute((cell(start=a, stop=b),), inputs)[0] for a, b in ((0, 5), (5, 12))]
    joined = join(parts)
    np.testing.assert_allclose(joined.probs, whole.probs, atol=1e-5)
    assert np.array_equal(joined.examples, whole.examples)


def test_the_halves_average_to_the_whole(inputs):
    for passes in (1, 2, 5):
        (result,) = compute((cell(passes=passes),), inputs)
        first = max(1, passes // 2)
        mean = (first * result.half + (passes - first) * result.other_half(passes)) / passes
        np.testing.assert_allclose(mean, result.probs, atol=1e-6)
        assert (result.single.argmax(2)[..., None] == np.arange(4)).shape == result.votes.shape
        hits = np.take_along_axis(result.votes, result.single.argmax(2)[..., None], 2)
        assert (hits >= 1).all()  # the single pass is one of those counted


def test_gradient_notes_are_there_for_one_step_attacks_alone(inputs):
    (one,), (many,) = compute((cell(),), inputs), compute((cell(PGD(MonteCarlo(2), steps=2)),), inputs)
    assert np.isfinite(one.gradient_norm).all()
    assert ((one.half_cosine >= -1.0001) & (one.half_cosine <= 1.0001)).all()
    assert np.isnan(many.gradient_norm).all()
    (dense,) = compute((cell(FGSM(), DENSE),), inputs)
    assert np.isnan(dense.half_cosine).all()


def test_the_cell_that_begins_the_data_keeps_its_first_images(inputs):
    first, later = (compute((cell(start=start, stop=start + 6),), inputs)[0] for start in (0, 6))
    assert first.pictures.shape == (3, 3, 8, 8, 3)
    assert later.pictures.shape == (3, 0, 8, 8, 3)
    clean = (inputs.data.images[:3] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(first.pictures[0], clean)
    moved = np.abs(first.pictures.astype(int) - clean)
    assert [moved[k].max() for k in range(3)] == [0, 2, 8]

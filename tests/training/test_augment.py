"""Shuffles, crops, flips and batches: a function of seed, epoch and image."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.training.augment import draw_shifts, held_out_positions, shuffle
from saplab.training.batches import Batch, Batches, network_input
from saplab.training.place import Place
from saplab.training.recipes import Recipe
from saplab.training.schedules import WarmupLinear
from saplab.training.testing import hold_out

TINY = Recipe("dense", "tiny", epochs=3, batch=32, schedule=WarmupLinear(0.05, 1))
GOLDEN_SHUFFLE = [3, 1, 0, 7, 6, 2, 4, 5]
GOLDEN_ROWS = [6, 5, 3, 5, 3, 5]
GOLDEN_COLUMNS = [8, 5, 7, 0, 6, 2]
GOLDEN_MIRRORED = [True, False, False, True, False, True]


@pytest.fixture(scope="module")
def data() -> Records:
    return read_sample().chosen(slice(100))


def batches(data: Records, place: Place = Place(), epoch: int = 1, **changes: Any) -> list[Batch]:  # noqa: B008 - frozen
    return list(Batches(data, replace(TINY, **changes), place).epoch(3, epoch))


def test_crops_are_shifts_of_the_padded_image() -> None:
    images = np.random.default_rng(0).integers(1, 256, (40, 3, 6, 5), np.uint8)
    (batch,) = batches(Records(images, np.zeros(40, np.int64), np.arange(40) + 100), batch=40, pad=2)
    shifts = draw_shifts(seed=3, epoch=1, count=40, pad=2, flip=True)
    for example, crop in zip(batch.examples - 100, batch.pixels, strict=True):
        row, column, mirrored = (drawn[example] for drawn in (shifts.rows, shifts.columns, shifts.mirrored))
        for channel, y, x in np.ndindex(3, 6, 5):
            source_y, source_x = y + row - 2, (4 - x if mirrored else x) + column - 2
            inside = 0 <= source_y < 6 and 0 <= source_x < 5
            assert crop[channel, y, x] == (images[example, channel, source_y, source_x] if inside else 0)
    assert shifts.mirrored.any()
    assert not shifts.mirrored.all()


def test_no_padding_and_no_flip_is_the_identity(data: Records) -> None:
    for batch in batches(data, pad=0, flip=False):
        positions = np.searchsorted(data.indices, batch.examples.numpy())
        assert np.array_equal(batch.pixels.numpy(), data.images[positions])


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    few, many = draw_shifts(5, 2, 10, 4, True), draw_shifts(5, 2, 1000, 4, True)
    chosen = np.array([7, 3])
    for name in ("rows", "columns", "mirrored"):
        assert np.array_equal(getattr(few, name), getattr(many, name)[:10])
        assert np.array_equal(getattr(few[chosen], name), getattr(many, name)[chosen])
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


def test_batches_hold_each_image_once_with_its_own_label_in_a_new_order(data: Records) -> None:
    label_of = dict(zip(data.indices.tolist(), data.labels.tolist(), strict=True))
    orders = []
    for epoch in range(2):
        made = batches(data, epoch=epoch)
        orders.append(torch.cat([batch.examples for batch in made]).tolist())
        assert len(set(orders[-1])) == len(orders[-1]) == 96
        assert [label_of[i] for i in orders[-1]] == torch.cat([batch.labels for batch in made]).tolist()
    assert orders[0] != orders[1]


def test_processes_share_each_batch(data: Records) -> None:
    whole = batches(data)
    shares = [batches(data, Place(rank=rank, world=2)) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        for name in ("pixels", "labels", "examples"):
            parts = torch.stack((getattr(first, name), getattr(second, name)), 1)
            assert torch.equal(parts.flatten(0, 1), getattr(batch, name))


def test_batches_are_stored_channels_last_and_leave_the_images_alone(data: Records) -> None:
    before = data.images.copy()
    assert all(batch.pixels.is_contiguous(memory_format=torch.channels_last) for batch in batches(data))
    assert np.array_equal(data.images, before)


def test_network_input_is_k_over_255() -> None:
    found = network_input(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    assert np.array_equal(found.flatten().numpy(), np.arange(256, dtype=np.float32) / np.float32(255))


def test_held_out_images_are_the_rest(data: Records) -> None:
    kept, out = hold_out(data, 30)
    assert out is not None
    assert (len(kept), len(out)) == (70, 30)
    assert sorted([*kept.indices, *out.indices]) == sorted(data.indices)
    assert (np.diff(kept.indices) > 0).all()
    assert out.classes == data.classes
    assert hold_out(data, 0)[0] is data
    assert hold_out(data, 0)[1] is None


def test_held_out_images_are_spread() -> None:
    positions = held_out_positions(50_000, 5_000)
    assert len(np.unique(positions)) == 5_000
    assert chisquare(np.bincount(positions // 5_000, minlength=10)).pvalue > 1e-3

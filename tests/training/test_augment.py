"""Shuffles, crops, flips and batches: a function of seed, epoch and image, on a host and on a device."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.training.augment import crop_and_flip, draw_shifts, held_out_positions, shuffle
from saplab.training.batches import Batch, OnDevice, OnHost, network_input
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


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, n), getattr(second, n)) for n in ("pixels", "labels", "examples"))


def test_a_device_makes_the_batches_of_a_host(data: Records) -> None:
    on_host = list(OnHost(data, TINY, Place()).epoch(3, 1))
    on_device = list(OnDevice(data, TINY, Place()).epoch(3, 1))
    assert len(on_host) == len(on_device) == 3
    assert all(same(*pair) for pair in zip(on_host, on_device, strict=True))
    assert on_device[0].pixels.is_contiguous(memory_format=torch.channels_last)


def test_batches_hold_each_image_once_with_its_own_label(data: Records) -> None:
    batches = list(OnHost(data, TINY, Place()).epoch(0, 0))
    examples = torch.cat([batch.examples for batch in batches])
    assert len(examples.unique()) == 96
    label_of = dict(zip(data.indices.tolist(), data.labels.tolist(), strict=True))
    assert [label_of[i] for i in examples.tolist()] == torch.cat([batch.labels for batch in batches]).tolist()


def test_processes_share_each_batch(data: Records) -> None:
    whole = list(OnHost(data, TINY, Place()).epoch(3, 1))
    shares = [list(OnHost(data, TINY, Place(rank=rank, world=2)).epoch(3, 1)) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(torch.stack((first.pixels, second.pixels), 1).flatten(0, 1), batch.pixels)


def test_network_input_is_k_over_255() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    for given in (pixels, torch.from_numpy(pixels)):
        assert np.array_equal(network_input(given).flatten().numpy(), expected)


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

"""Noise laid out as the maps are that it is for."""

import pytest
import torch

import saplab
from saplab.defenses.layout import stored_as

DEFENSES = (saplab.Dropout(0.3), saplab.RandomNoisyActivations(0.5), saplab.RandomlyScaledActivations(0.5))


def test_a_number_keeps_its_place_however_a_map_is_stored():
    rows = torch.rand(5, 3 * 4 * 7)
    maps = torch.rand(5, 3, 4, 7)
    for h in (maps, maps.contiguous(memory_format=torch.channels_last)):
        laid_out = stored_as(rows, h)
        assert torch.equal(laid_out, rows.view(5, 3, 4, 7))
        assert laid_out.stride() == h.stride()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 1, 4, 4), (2, 3, 1, 1), (6, 5), (2, 3, 4)])
def test_maps_of_one_layout_only_are_viewed(shape):
    h = torch.rand(shape)
    rows = torch.rand(shape[0], h[:1].numel() if shape[0] else 48)
    assert torch.equal(stored_as(rows, h), rows.view(shape))


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda defense: type(defense).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_defended_maps_are_the_same_in_both_layouts(defense, dtype):
    images = torch.rand(4, 6, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    stored = (images, images.contiguous(memory_format=torch.channels_last))
    one, other = (saplab.defend(torch.nn.ReLU(), defense, seed=3)(h) for h in stored)
    assert torch.equal(one, other)
    assert other.is_contiguous(memory_format=torch.channels_last)


def test_the_operator_is_one_of_pytorch():
    torch.library.opcheck(torch.ops.saplab.channels_last.default, (torch.rand(2, 24), [2, 2, 3, 4]))

"""Numbers too small to be normal, while something learns."""

import torch

from saplab.learning.denormals import flushed_denormals


def flushes() -> bool:
    return bool((torch.full((64,), 1e-40) * 0.5 == 0).all())


def test_denormals_are_flushed_inside_and_as_before_afterwards() -> None:
    assert not flushes()
    with flushed_denormals():
        assert flushes()
        with flushed_denormals():
            assert flushes()
        assert flushes()
    assert not flushes()

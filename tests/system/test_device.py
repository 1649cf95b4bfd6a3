"""Devices by name."""

import pytest
import torch

from saplab.system.device import find_device


def test_a_device_by_name() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["meta", "tpu", "cuda:99", "mps:7", "CPU", "", "cpu:1:2"])
def test_a_device_that_cannot_be_used(name: str) -> None:
    with pytest.raises(ValueError, match=f"^`device` must be auto, cpu or a device that is there, got '{name}': ."):
        find_device(name)

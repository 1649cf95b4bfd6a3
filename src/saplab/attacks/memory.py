"""How many rows a network takes at once, forward and backward, where a CPU's memory would run out without an error."""

import sys
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

BUDGET: Final = 4 << 30  # bytes kept for the way back; one number for all machines, as bits depend on it
SMALL: Final = 16 << 20  # bytes of images that no network of the usual kind needs the budget for
_Place = tuple[torch.Size, torch.dtype, bool]

_bytes: "WeakKeyDictionary[nn.Module, dict[_Place, int]]" = WeakKeyDictionary()


def rows_at_once(model: nn.Module, images: Tensor, rows: int, run_one: Callable[[], Any]) -> int:
    """Return the number of rows whose way back fits into `BUDGET`; on a GPU, where an error says so, any number.

    What a row keeps is measured once for a network and a shape, where the rows are large or many.

    Args:
        model: in training mode it may mix rows, and takes all of them.
        images: (N, ...) on the device where they are used.
        rows: to be taken through the network, copies of the images.
        run_one: takes the first of them through the network.
    """
    size = rows * images[:1].numel() * images.element_size()
    if images.device.type != "cpu" or model.training or size <= SMALL:
        return sys.maxsize
    known = _bytes.setdefault(model, {})
    place = images.shape[1:], images.dtype, torch.is_autocast_enabled("cpu")
    if place not in known:
        known[place] = kept_bytes(model, run_one)
    return max(1, BUDGET // max(1, known[place]))


def kept_bytes(model: nn.Module, run: Callable[[], Any]) -> int:
    """Count the bytes that `run` keeps for its way back, but for the parameters and buffers of `model`."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            kept[place] = tensor
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(t.untyped_storage().nbytes() for t in kept.values())

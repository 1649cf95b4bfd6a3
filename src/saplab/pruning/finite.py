"""Errors for activation maps that are not finite: raised at once on the CPU, later for a GPU.

A GPU works asynchronously, and asking it after each pruning would make it wait. Its kernels turn maps with NaN or
infinity into NaN as a whole and note them; `check_finite` asks once for all prunings since the last time.
"""

import threading
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

_WIDTH: Final = 4  # numbers of a place, of which two are used: 16 bytes, by which kernels are compiled once for all
_PLACES: Final = 1024  # prunings between two checks; the next one checks by itself
_NOBODY: Final = 2**31 - 1


class NotFiniteError(ValueError):
    """An activation map holds NaN or infinity and has no distribution to draw from."""


def not_finite(name: str, bad: int, maps: int, example: int) -> NotFiniteError:
    """Return the error for `bad` of the `maps` maps called `name`, of which the first is the example's."""
    return NotFiniteError(f"{name}: NaN or infinity in {bad} of {maps} maps, first in example {example}")


@dataclass
class _Notes:
    """What the kernels of one device note of each pruning: the number of bad maps, and the first of them."""

    places: Tensor
    calls: list[tuple[str, Tensor]] = field(default_factory=list)

    def clear(self) -> None:
        self.places.copy_(torch.tensor([0, _NOBODY, 0, 0], dtype=torch.int32).expand(_PLACES, _WIDTH))


_lock = threading.Lock()
_notes: dict[torch.device, _Notes] = {}


def note(streams: Tensor, name: str) -> Tensor:
    """Return a place (4,) int32, on the device of `streams` (N, 3), where a pruning can note maps that are not finite.

    It notes their number and the first of them.

    Raises NotFiniteError where no place is left and a map of an earlier pruning was not finite.
    """
    device = streams.device
    while True:
        with _lock:
            if device not in _notes:
                _notes[device] = _Notes(torch.empty((_PLACES, _WIDTH), dtype=torch.int32, device=device))
                _notes[device].clear()
            notes = _notes[device]
            if len(notes.calls) < _PLACES:
                notes.calls.append((name, streams))
                return notes.places[len(notes.calls) - 1]
        check_finite(device)


def check_finite(*devices: torch.device) -> None:
    """Wait for GPUs, by default all, and raise the first NotFiniteError of their prunings since the last check."""
    for device in devices or tuple(_notes):
        _check(device)


def _check(device: torch.device) -> None:
    with _lock:
        notes = _notes.get(device)
        if notes is None or not notes.calls:
            return
        calls, notes.calls = notes.calls, []
        found = notes.places[: len(calls)].to("cpu", copy=True)
        bad = found[:, 0].nonzero()
        if len(bad):
            notes.clear()
    if len(bad):
        call = int(bad[0])
        name, streams = calls[call]
        raise not_finite(name, int(found[call, 0]), len(streams), int(streams[found[call, 1], 2]))

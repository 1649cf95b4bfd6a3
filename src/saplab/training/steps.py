"""A step of training: a batch, passes of the network over it, and draws that depend on seed, step and image alone."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from saplab.defenses import Defense, defend
from saplab.defenses.drawing import drawing
from saplab.rng.numbers import normals, uniforms
from saplab.rng.streams import derived_key, pass_streams, stream_key
from saplab.system.precision import computing_in
from saplab.training.draws import seeded
from saplab.training.place import Place

MAIN, START, INNER = 0, 1, 2  # numbers of a step's passes: the one trained on, the random start, the adversary's first
PASSES: Final = 64  # that one step may run


class Networks:
    """The network of a run: bare, with its defences, which shares its parameters, and another one, for adversaries.

    The seed decides all draws: those of the defences, of the network itself, and the adversary's random starts.
    """

    def __init__(self, model: nn.Module, defenses: Sequence[Defense], precision: str, seed: int, place: Place) -> None:
        self.model, self.defenses, self.precision, self.place = model, defenses, precision, place
        self.key = stream_key(seed, "training")
        self.defended = self._defended(model)
        self.compiled: Any = torch.compile(self.defended) if place.compiled else self.defended
        self._other: nn.Module | None = None

    def keep_previous(self) -> None:
        """Keep a copy of the network as the one before the epoch."""
        self._other = self._defended(copy.deepcopy(self.model).requires_grad_(False).eval())

    def keep(self, other: nn.Module) -> None:
        """Keep a network that was trained before."""
        self._other = other.to(self.place.device).requires_grad_(False).eval()

    @property
    def other(self) -> nn.Module:
        """Return the network that was kept last."""
        if self._other is None:
            raise ValueError("no network of an epoch before was kept")
        return self._other

    def _defended(self, model: nn.Module) -> nn.Module:
        return defend(model, *self.defenses) if self.defenses else model


@dataclass(frozen=True)
class Step:
    """One batch of a run: images (B, C, H, W) in [0, 1], labels (B,), and the images' indices in their data set (B,).

    The step's number is counted from 0 over all epochs.
    """

    networks: Networks
    images: Tensor
    labels: Tensor
    examples: Tensor
    number: int

    def trained(self, images: Tensor, pass_: int = MAIN) -> Tensor:
        """Run the network in training mode; float32 logits (B, classes)."""
        self.networks.defended.train()
        return self._logits(self.networks.compiled, images, pass_)

    def attacked(self, images: Tensor, pass_: int) -> Tensor:
        """Run the network in evaluation mode, over the batch's first images."""
        self.networks.defended.eval()
        return self._logits(self.networks.compiled, images, pass_)

    def other(self, images: Tensor, pass_: int) -> Tensor:
        """Run the network that was kept, from before the epoch or the run, over the batch's first images."""
        return self._logits(self.networks.other, images, pass_)

    def uniform(self) -> Tensor:
        """Draw numbers in [0, 1) in the shape of the images."""
        return self._drawn(uniforms)

    def normal(self) -> Tensor:
        """Draw standard normal numbers in the shape of the images."""
        return self._drawn(normals)

    def _drawn(self, numbers: Callable[[Tensor, int], Tensor]) -> Tensor:
        streams = self._streams(START, len(self.images))
        return numbers(streams, self.images[0].numel()).view_as(self.images).to(self.images)

    def _logits(self, network: Any, images: Tensor, pass_: int) -> Tensor:
        if pass_ >= PASSES:
            raise ValueError(f"a step may run {PASSES - INNER} passes of an adversary, and this one is number {pass_}")
        streams, place = self._streams(pass_, len(images)), self.networks.place
        seed = derived_key(derived_key(self.networks.key, place.rank), self.number * PASSES + pass_)
        with computing_in(self.networks.precision, place.device), drawing(streams), seeded(seed, place.device):
            logits: Tensor = network(images)
        return logits.float()

    def _streams(self, pass_: int, count: int) -> Tensor:
        return pass_streams(self.networks.key, self.number * PASSES + pass_, self.examples[:count])

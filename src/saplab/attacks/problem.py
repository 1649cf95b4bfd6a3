"""Examples under attack: no answer about one of them depends on the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from saplab.attacks.threat import LINF, ThreatModel
from saplab.data.given import Array, given_images, given_labels
from saplab.defenses.defended import is_random
from saplab.defenses.gradient import refuse_inference_mode
from saplab.defenses.prediction import for_network, numbered
from saplab.defenses.stochastic import ready
from saplab.rng.streams import pass_streams, stream_key

if TYPE_CHECKING:
    from saplab.attacks.flatness import Flatness


@dataclass(frozen=True)
class Problem:
    """Images with their labels, their numbers, and the network whose passes the attacker sees.

    Attributes:
        adversary: images (N, C, H, W) -> logits (N, classes); the defender may be another network.
        images: (N, C, H, W), within the threat model's bounds.
        labels: (N,) integers.
        examples: (N,) number of each image; with `seed` it decides the draws.
        seed: of the attack's draws and, as a stream apart from the defender's, of the adversary's passes.
        threat: what may be changed.
        targets: (N,) classes to drive towards; None for the untargeted losses.
        batch_size: images times passes in one forward pass; None for as many as run fastest.
        flatness: where to note flat gradients. Those that are not finite are then noted and taken as 0; else they are
            an error.
    """

    adversary: nn.Module
    images: Tensor
    labels: Tensor
    examples: Tensor
    seed: int = 0
    threat: ThreatModel = LINF
    targets: Tensor | None = None
    batch_size: int | None = None
    flatness: Flatness | None = None

    @classmethod
    def of(
        cls, adversary: nn.Module, images: Array, labels: Array, eps: Sequence[float] = (), seed: int = 0, *,
        examples: Tensor | None = None, threat: ThreatModel = LINF, targets: Array | None = None,
        batch_size: int | None = None, asked: bool = True,
    ) -> Problem:  # fmt: skip
        """Check what is asked and return the problem; examples are numbered 0..N-1 by default.

        With `asked`, the attack runs the network, which is found out and readied first; see `saplab.Stochastic`.

        Raises:
            ValueError: images, labels or radii that `threat` refuses, or bad `seed`, `examples` or `targets`.
        """
        if asked:
            refuse_inference_mode()
        points = for_network(adversary, given_images(images))
        wanted = given_labels(labels, len(points)).to(points.device)
        threat.check(points, wanted, eps)
        stream_key(seed)
        towards = None if targets is None else given_labels(targets, len(points), "targets").to(points.device)
        if towards is not None and bool((towards == wanted).any()):
            raise ValueError(f"`targets` must be {len(points)} classes, none of them its example's label")
        numbers = numbered(examples, len(points))
        return cls(
            ready(adversary, points) if asked else adversary, points, wanted, numbers, seed, threat, towards, batch_size
        )

    @cached_property
    def random(self) -> bool:
        """Return whether the adversary's passes differ."""
        return is_random(self.adversary)

    def part(self, which: Tensor) -> Problem:
        """Return the problem of the examples at the positions `which` (n,) alone."""
        if len(which) == len(self.images):
            return self
        examples = self.examples[which.to(self.examples.device)]
        targets = None if self.targets is None else self.targets[which]
        return replace(self, images=self.images[which], labels=self.labels[which], examples=examples, targets=targets)

    def at(self, points: Tensor) -> Problem:
        """Return the same problem with `points` in the place of its images."""
        return replace(self, images=points.detach())

    def split(self, size: int) -> Iterator[Problem]:
        """Yield the problems of `size` examples at a time."""
        for start in range(0, len(self.images), size):
            yield self.part(self.everyone()[start : start + size])

    def everyone(self) -> Tensor:
        """Return the positions (N,) of all examples."""
        return torch.arange(len(self.images), device=self.images.device)

    def project(self, points: Tensor, eps: float) -> Tensor:
        """Return the nearest valid points within `eps` of the images."""
        return self.threat.project(points, self.images, eps)

    def farthest(self, gradient: Tensor, eps: float) -> Tensor:
        """Return the valid points within `eps` of the images where functions with these gradients would be largest."""
        return self.threat.farthest(gradient, self.images, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the changes of norm 1 along which functions with these gradients rise fastest."""
        return self.threat.geometry.steepest(gradient)

    def noise(self, number: int = 0) -> Tensor:
        """Return the streams (N, 3) of the attack's own draws: others for each `number`."""
        return pass_streams(stream_key(self.seed, "noise"), number, self.examples)

    def random_start(self, eps: float, number: int) -> Tensor:
        """Draw points uniform in the ball, by volume, and project them on to valid values; others for each `number`."""
        return self.project(self.images + eps * self.threat.geometry.in_ball(self.noise(number), self.images), eps)

"""Examples under attack, and what an attacker may ask about any part of them: no answer depends on the others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from saplab.attacks.ball import check_request, project
from saplab.attacks.estimate import Estimate, Score
from saplab.attacks.gradient import MonteCarlo
from saplab.rng.streams import pass_streams, random_words, stream_key

STARTS: Final = 5  # kind of these random numbers; a defence's have 0 to 4


@dataclass(frozen=True)
class Problem:
    """Images with their labels, their numbers, and the network whose passes the attacker sees.

    Args:
        gradient: how a pass is taken and averaged.
        targets: (N,) classes to drive towards; None for the untargeted losses.
    """

    adversary: nn.Module
    images: Tensor
    labels: Tensor
    examples: Tensor
    seed: int
    gradient: MonteCarlo
    targets: Tensor | None = None

    @classmethod
    def of(
        cls, gradient: MonteCarlo, adversary: nn.Module, images: Tensor, labels: Tensor, eps: Sequence[float],
        seed: int, examples: Tensor | None,
    ) -> "Problem":  # fmt: skip
        """Check an attack's arguments and hold them.

        Raises:
            ValueError: see `saplab.attacks.attack.Attack.curve`.
        """
        check_request(images, labels, eps)
        stream_key(seed)
        numbers = torch.arange(len(images)) if examples is None else examples
        return cls(adversary, images.detach(), labels, numbers, seed, gradient)

    def part(self, which: Tensor) -> "Problem":
        """Give the problem of the examples at the positions `which` (n,) alone."""
        if len(which) == len(self.images):
            return self
        examples = self.examples[which.to(self.examples.device)]
        targets = None if self.targets is None else self.targets[which]
        return replace(self, images=self.images[which], labels=self.labels[which], examples=examples, targets=targets)

    def everyone(self) -> Tensor:
        """Give the positions (N,) of all examples."""
        return torch.arange(len(self.images), device=self.images.device)

    def estimate(self, points: Tensor, block: int) -> Estimate:
        """Estimate the gradient at `points`, with the block of fresh samples of that number."""
        return self.gradient.estimate(
            self.adversary, points, self.labels, self.seed, examples=self.examples, targets=self.targets,
            first_sample=block * self.gradient.samples,
        )  # fmt: skip

    def score(self, points: Tensor, block: int) -> Score:
        """Score `points` by the untargeted loss, with the block of fresh samples of that number."""
        return self.gradient.score(
            self.adversary, points, self.labels, self.seed, examples=self.examples,
            first_sample=block * self.gradient.samples,
        )  # fmt: skip

    def random_start(self, eps: float, number: int) -> Tensor:
        """Draw points uniform in the ball, then project them on the cube; other ones for each `number`."""
        rows = pass_streams(stream_key(self.seed, "noise"), number, self.examples)
        words = random_words(rows, self.images[0].numel(), kind=STARTS) >> np.uint32(8)
        u = torch.from_numpy(words.astype(np.float32)).view(self.images.shape).to(self.images) * 2.0**-24
        return project(self.images + eps * (2 * u - 1), self.images, eps)

"""Attacks of one step: random signs, and the sign of the gradient. A whole accuracy-λ curve costs one direction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from saplab.attacks.attack import Attack, Cost
from saplab.attacks.ball import check_request, project
from saplab.attacks.gradient import MonteCarlo
from saplab.rng.streams import pass_streams, random_words, stream_key


@dataclass(frozen=True)
class RandomNoise(Attack):
    """Each pixel moves by +eps or -eps with equal chance: a random perturbation as large as FGSM's (Fig. 1a)."""

    def curve(
        self, adversary: nn.Module | None, images: Tensor, labels: Tensor, eps: Sequence[float], seed: int = 0, *,
        examples: Tensor | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yield perturbed images for each of `eps`, all in one direction.

        Args:
            adversary: not used; random noise knows nothing of the network.
            images, labels: (N, C, H, W) in [0, 1], and (N,) integers.
            eps: radii in the unit of [0, 1] images.
            seed: of the signs.
            examples: (N,) number of each image, 0..N-1 by default; with `seed` it decides the signs.

        Raises:
            ValueError: images outside [0, 1], bad labels, `eps` outside [0, 1].
        """
        check_request(images, labels, eps)
        numbers = torch.arange(len(images)) if examples is None else examples
        signs = random_signs(images, stream_key(seed, "noise"), numbers)
        return (project(images + e * signs, images, e) for e in eps)

    def cost(self, eps: Sequence[float]) -> Cost:
        """Give no passes."""
        return Cost(0, 0)


def random_signs(images: Tensor, key: int, examples: Tensor) -> Tensor:
    """Draw a tensor of -1 and +1 like `images` (N, ...), a function of the key and each example's number."""
    size = images[0].numel()
    words = random_words(pass_streams(key, 0, examples), -(-size // 32))
    bits = np.unpackbits(words.view(np.uint8), axis=1)[:, :size]
    return torch.from_numpy(bits).view(images.shape).to(images) * 2 - 1


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method (Goodfellow et al. 2014): x + eps · sign(E[∇J]), clipped to the cube.

    Args:
        gradient: how the expectation over the adversary's passes is estimated.

    Example:
        >>> attack = saplab.FGSM(saplab.MonteCarlo(samples=100, backward="mask"))
        >>> adversarial = attack(sap, images, labels, eps=8 / 255, seed=1)
    """

    gradient: MonteCarlo = field(default_factory=MonteCarlo)

    def curve(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, eps: Sequence[float], seed: int = 0, *,
        examples: Tensor | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yield adversarial images for each of `eps`, from one gradient.

        Args:
            adversary: the network whose gradient is used; the defender may be another.
            images, labels: (N, C, H, W) in [0, 1], and (N,) integers.
            eps: radii in the unit of [0, 1] images; λ pixel steps are λ/255.
            seed: of the adversary's passes.
            examples: (N,) number of each image, 0..N-1 by default; with `seed` it decides the draws.

        Raises:
            ValueError: images outside [0, 1], bad labels, `eps` outside [0, 1], or as `MonteCarlo.gradient`.
        """
        check_request(images, labels, eps)
        sign = self.gradient.gradient(adversary, images, labels, seed, examples=examples).sign()
        return (project(images + e * sign, images, e) for e in eps)

    def cost(self, eps: Sequence[float]) -> Cost:
        """Give the passes of one gradient, which serves all of `eps`."""
        return self.gradient.cost

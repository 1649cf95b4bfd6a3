"""What every attack offers: perturbed images for one eps or a whole curve of them, and what that costs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """Passes of the adversary for one image, at most.

    Args:
        forward, backward: a gradient takes one of each.
    """

    forward: int
    backward: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.forward * times, self.backward * times)


class Attack(ABC):
    """Common to all attacks, which are frozen dataclasses of their settings."""

    def __call__(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, eps: float, seed: int = 0, *,
        examples: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Perturb `images` (N, C, H, W) in [0, 1] within `eps` and the cube; see `curve`."""
        return next(self.curve(adversary, images, labels, (eps,), seed, examples=examples))

    @abstractmethod
    def curve(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, eps: Sequence[float], seed: int = 0, *,
        examples: Tensor | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yield perturbed images for each of `eps`, in that order.

        Args:
            adversary: the network that the attacker asks; the defender may be another.
            images, labels: (N, C, H, W) in [0, 1], and (N,) integers.
            eps: radii in the unit of [0, 1] images; λ pixel steps are λ/255.
            seed: of the attack's draws, and of the adversary's passes in it.
            examples: (N,) number of each image, 0..N-1 by default; with `seed` it decides the draws.

        Raises:
            ValueError: images outside [0, 1], bad labels, `eps` outside [0, 1], or as `MonteCarlo.estimate`.
        """

    @abstractmethod
    def cost(self, eps: Sequence[float]) -> Cost:
        """Bound the passes of the adversary that a curve takes, for one image; no fewer where none is lost early."""


def in_order(eps: Sequence[float], ascending: Callable[[Sequence[float]], Iterator[Tensor]]) -> Iterator[Tensor]:
    """Yield for each of `eps`, in the order asked, what `ascending` yields for them sorted and without repeats."""
    radii = sorted(set(eps))
    results = zip(radii, ascending(radii), strict=True)
    waiting: dict[float, Tensor] = {}
    for i, radius in enumerate(eps):
        while radius not in waiting:
            waiting.update((next(results),))
        points = waiting[radius]
        if radius not in eps[i + 1 :]:
            del waiting[radius]
        yield points

"""One attack's outcome on one network, as a verdict takes it."""

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

AttackName = Literal["noise", "fgsm", "iterative", "pgd", "apgd", "square"]
AdversaryName = Literal["own", "transfer", "none"]
BackwardName = Literal["mask", "probability", "identity", ""]
_NAMES: Final = {"attack": AttackName, "adversary": AdversaryName, "backward": BackwardName}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one attack leaves of one network: L strengths, N images, C classes.

    Args:
        label: what a person reads ("SAP-100, PGD, identity backward").
        attack: ``noise``, ``fgsm``, ``iterative``, ``pgd``, ``apgd`` or ``square``.
        adversary: whose gradient: the network's ``own``, another one's (``transfer``), or ``none``.
        backward: how the gradient of the own defence is taken; "" for a network without one, and for `adversary` other
            than ``own``.
        samples: Monte Carlo samples of one gradient.
        steps: gradient steps at the largest strength (queries, for ``square``). The paper's ``iterative`` attack takes
            proportionally fewer at smaller ones.
        strengths: λ in pixel steps of each of the L rows, ascending.
        right: (L, N) scores in [0, 1] of the averaged prediction: 1 where it is right.
        halves: (2, L, N, C) mean probabilities over the first and second half of the passes; equal halves where the
            network has no randomness.
        half_cosine: (N,) cosine between the gradients of two independent halves of the samples, 0 where one is 0.
        gradient_norm: (N,) norm of the gradient at the clean image.
        loss: of the attack, so that only like runs are compared for convergence.

    Raises:
        ValueError: an unknown name, other shapes, or scores outside [0, 1].
    """

    label: str
    attack: AttackName
    adversary: AdversaryName
    backward: BackwardName
    samples: int
    steps: int
    strengths: tuple[float, ...]
    right: NDArray[np.float64]
    halves: NDArray[np.floating] | None = None
    half_cosine: NDArray[np.floating] | None = None
    gradient_norm: NDArray[np.floating] | None = None
    loss: str = ""

    def __post_init__(self) -> None:
        for name, kind in _NAMES.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"`{name}` must be one of {known}, got {getattr(self, name)!r}")
        if self.samples < 1 or self.steps < 1:
            raise ValueError(f"`samples` and `steps` must be >= 1, got {self.samples} and {self.steps}")
        if not self.strengths or list(self.strengths) != sorted(set(self.strengths)) or self.strengths[0] < 0:
            raise ValueError(f"`strengths` must ascend from 0 or more, got {self.strengths}")
        self._check_arrays()

    def _check_arrays(self) -> None:
        right = np.asarray(self.right)
        if right.ndim != 2 or len(right) != len(self.strengths) or right.size == 0:
            raise ValueError(f"`right` must have the shape ({len(self.strengths)}, N), got {right.shape}")
        if not (right.min() >= 0 and right.max() <= 1):
            raise ValueError(f"`right` must be in [0, 1], got {right.min()} to {right.max()}")
        if self.halves is not None and (self.halves.ndim != 4 or self.halves.shape[:3] != (2, *right.shape)):
            raise ValueError(f"`halves` must have the shape (2, {len(right)}, {self.n}, C), got {self.halves.shape}")
        for name, low, high in (("half_cosine", -1 - 1e-5, 1 + 1e-5), ("gradient_norm", 0.0, math.inf)):
            values = getattr(self, name)
            if values is not None and not (values.shape == (self.n,) and values.min() >= low and values.max() <= high):
                raise ValueError(f"`{name}` must be ({self.n},) numbers in [{low:g}, {high:g}], got {values.shape}")

    @property
    def n(self) -> int:
        """Give the number of images."""
        return int(self.right.shape[1])

    @property
    def own_gradient(self) -> bool:
        """Tell whether the attack follows the network's own gradient (by any backward rule)."""
        return self.adversary == "own" and self.attack not in ("noise", "square")

    def at(self, strength: float) -> NDArray[np.float64]:
        """Give the scores (N,) at one of the strengths."""
        return np.asarray(self.right[self.strengths.index(strength)], np.float64)

    def steps_at(self, strength: float) -> int:
        """Give the gradient steps taken at one of the strengths (section 4.5: λ/k of them for ``iterative``)."""
        if self.attack != "iterative":
            return self.steps
        return max(1, math.ceil(self.steps * strength / self.strengths[-1] - 1e-9))

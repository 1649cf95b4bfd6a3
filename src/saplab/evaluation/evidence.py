"""What one attack leaves of one network: the evidence of a verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.attacks import LINF, Attack, GradientAttack, ThreatModel
from saplab.metrics import correct

Adversary = Literal["own", "transfer", "none"]
Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one attack leaves of one network: L radii, N images, C classes.

    Attributes:
        attack: what it knows of the network, and what it spends, is asked of this object.
        adversary: the network that the attack asks: the ``own`` one, another (``transfer``), or ``none``.
        eps: radii, ascending.
        right: (L, N) scores in [0, 1] of the averaged prediction: 1 where it is right.
        has_rules: whether the backward rule makes a difference for the network's gradient.
        random: whether the passes of that network differ; None, for not known, means the same as `has_rules`.
        halves: (2, L, N, C) mean probabilities over the first and second half of the passes; equal halves where the
            network has no randomness.
        half_cosine: (N,) cosine between the gradients of two independent halves of the samples, 0 where one is 0.
        gradient_norm: (N,) norm of the gradient at the clean image.
        flat: (N,) 1 where the attack met a flat gradient at its start or at its end, 0 where not, NaN where the image
            was wrong at both; see `saplab.attacks.flatness`.
        threat: norm and bounds in which `eps` is measured.
        values: how many an example has; 0 for not known.
        hits: (L, N) how many of each image's passes are right; None for one pass or a network without randomness.
        passes: over each image.
        classes: C; 0 where it is not known.

    Raises:
        ValueError: a gradient attack that asks no network, radii that do not ascend, other shapes or ranges.
    """

    label: str
    attack: Attack
    adversary: Adversary
    eps: tuple[float, ...]
    right: NDArray[np.float64]
    has_rules: bool = False
    halves: Array | None = None
    half_cosine: Array | None = None
    gradient_norm: Array | None = None
    random: bool | None = None
    threat: ThreatModel = LINF
    values: int = 0
    hits: NDArray[np.integer] | None = None
    passes: int = 1
    flat: Array | None = None
    classes: int = 0

    @classmethod
    def of(
        cls, attack: Attack, eps: Sequence[float], probs: ArrayLike, labels: ArrayLike, *, label: str = "",
        adversary: Adversary = "own", has_rules: bool = False, halves: ArrayLike | None = None,
        half_cosine: Array | None = None, gradient_norm: Array | None = None, random: bool | None = None,
        threat: ThreatModel = LINF, values: int = 0,
        hits: ArrayLike | None = None, passes: int = 1, flat: Array | None = None,
    ) -> Self:  # fmt: skip
        """Return the evidence of averaged predictions; arguments that are not described here are the class's.

        Args:
            eps: L radii, in any order, which is that of `probs`, `halves` and `hits`.
            probs: (L, N, C) mean probabilities over the passes.
            labels: (N,) integers in 0..C-1.
            label: by default the attack's description.

        Raises:
            ValueError: labels that are not classes, or as the class.

        Examples:
            >>> eps = [2 / 255, 8 / 255]
            >>> attacked = [attack(net, images, labels, radius) for radius in eps]
            >>> probs = torch.stack([saplab.predict(net, points, passes=100) for points in attacked])
            >>> saplab.verdict([saplab.Evidence.of(attack, eps, probs, labels)], labels=labels).sentence
        """
        table, order = np.asarray(probs), np.argsort(eps)
        if table.ndim != 3 or len(table) != len(eps):
            raise ValueError(f"`probs` must have the shape ({len(eps)}, N, C), one row a radius, got {table.shape}")
        right = np.array([correct(table[k], labels) for k in order], np.float64)
        if halves is not None and np.shape(halves) != (2, *table.shape):
            raise ValueError(f"`halves` must have the shape {(2, *table.shape)}, got {np.shape(halves)}")
        ordered = None if halves is None else np.asarray(halves)[:, order]
        label = label or (attack.describe(has_rules) if attack.title else type(attack).__name__)
        radii = tuple(float(eps[k]) for k in order)
        found = None if hits is None else np.asarray(hits)[order]
        notes = (half_cosine, gradient_norm, random, threat, values, found, passes, flat, table.shape[2])
        return cls(label, attack, adversary, radii, right, has_rules, ordered, *notes)

    def __post_init__(self) -> None:
        if self.adversary not in get_args(Adversary):
            raise ValueError(f"`adversary` must be one of {', '.join(get_args(Adversary))}, got {self.adversary!r}")
        if self.adversary == "none" and self.attack.knowledge == "gradient":
            raise ValueError("`adversary` must be own or transfer for an attack along a gradient, got 'none'")
        if not self.eps or list(self.eps) != sorted(set(self.eps)) or self.eps[0] < 0:
            raise ValueError(f"`eps` must ascend from 0 or more, got {self.eps}")
        self.threat.check_radii(self.eps, self.values)
        right = np.asarray(self.right)
        if right.ndim != 2 or len(right) != len(self.eps) or right.size == 0:
            raise ValueError(f"`right` must have the shape ({len(self.eps)}, N), got {right.shape}")
        if not (right.min() >= 0 and right.max() <= 1):
            raise ValueError(f"`right` must be in [0, 1], got {right.min()} to {right.max()}")
        if self.halves is not None and (self.halves.ndim != 4 or self.halves.shape[:3] != (2, *right.shape)):
            raise ValueError(f"`halves` must have the shape (2, {len(right)}, {self.n}, C), got {self.halves.shape}")
        if self.hits is not None and not (
            self.hits.shape == right.shape and 0 <= self.hits.min() <= self.hits.max() <= self.passes
        ):
            raise ValueError(f"`hits` must be {right.shape} numbers in 0..{self.passes}, got {self.hits.shape}")
        self._check("half_cosine", self.half_cosine, -1 - 1e-5, 1 + 1e-5)
        self._check("gradient_norm", self.gradient_norm, 0.0, math.inf)
        self._check("flat", None if self.flat is None else np.nan_to_num(self.flat), 0.0, 1.0)

    def _check(self, name: str, values: Array | None, low: float, high: float) -> None:
        if values is not None and not (values.shape == (self.n,) and values.min() >= low and values.max() <= high):
            raise ValueError(f"`{name}` must be ({self.n},) numbers in [{low:g}, {high:g}], got {values.shape}")

    @property
    def n(self) -> int:
        """Return the number of images."""
        return int(self.right.shape[1])

    @property
    def own_gradient(self) -> bool:
        """Return whether the attack follows the network's own gradient, by any backward rule."""
        return self.attack.knowledge == "gradient" and self.adversary == "own"

    @property
    def transferred(self) -> bool:
        """Return whether the attack follows another network's gradient."""
        return self.attack.knowledge == "gradient" and self.adversary == "transfer"

    @property
    def black_box(self) -> bool:
        """Return whether the attack sees scores alone."""
        return self.attack.knowledge == "scores"

    @property
    def noise(self) -> bool:
        """Return whether the attack asks no network."""
        return self.attack.knowledge == "nothing"

    @property
    def backward(self) -> str:
        """Return the backward rule of the own gradient; "" where it makes no difference or is not known."""
        if not (self.own_gradient and isinstance(self.attack, GradientAttack)):
            return ""
        rule = self.attack.gradient.backward
        return rule if self.has_rules or rule == "relaxed" else ""

    @property
    def loss(self) -> str:
        """Return the loss that the gradient is of; "" where it is not known."""
        return self.attack.gradient.loss_name if isinstance(self.attack, GradientAttack) else ""

    @property
    def blind(self) -> NDArray[np.float64]:
        """Return for the images known of, 0 or 1, whether the attack met a flat gradient there."""
        known = np.asarray([] if self.flat is None else self.flat, np.float64)
        return np.asarray(known[~np.isnan(known)])

    @property
    def samples(self) -> int:
        """Return how many passes one gradient or query averages, at least 1."""
        return max(1, self.attack.samples)

    @property
    def steps(self) -> int:
        """Return the gradient steps, or queries, at the largest radius."""
        return self.steps_at(self.eps[-1])

    @property
    def tries(self) -> int:
        """Return how often the attack takes all its steps: restarts, times targets."""
        return self.attack.tries

    @property
    def iterative(self) -> bool:
        """Return whether the attack takes more than one step at its largest radius."""
        return self.steps > 1

    @property
    def one_step(self) -> bool:
        """Return whether the attack takes one step along the own gradient, whatever the radius."""
        return self.own_gradient and not self.attack.iterative

    def steps_at(self, eps: float) -> int:
        """Return the gradient steps, or queries, at a radius."""
        return self.attack.steps_at(eps)

    def at(self, eps: float) -> NDArray[np.float64]:
        """Return the scores (N,) at one of the radii."""
        return np.asarray(self.right[self.eps.index(eps)], np.float64)

    def least_within(self, eps: float) -> NDArray[np.float64]:
        """Return the scores (N,) at the radius up to `eps`, which holds every smaller one, that leaves least."""
        inside = self.right[np.asarray(self.eps) <= eps]
        return np.asarray(inside[inside.mean(axis=1).argmin()], np.float64)


@dataclass(frozen=True, eq=False)
class Case:
    """All the evidence about one network.

    Attributes:
        evidence: attacks on the network in question.
        dense: attacks on the undefended one.
        chance: accuracy of a guess; 0 where the number of classes is not known.
    """

    evidence: Sequence[Evidence]
    dense: Sequence[Evidence] = ()
    chance: float = 0.0

    @property
    def threat(self) -> ThreatModel:
        """Return norm and bounds, which all the evidence shares."""
        return self.evidence[0].threat

    @property
    def unbounded(self) -> float:
        """Return the radius from which an attack should reach chance; infinite where none is known to be so large."""
        values = max(e.values for e in self.evidence)
        return self.threat.unbounded(values) if values or self.threat.norm == "linf" else math.inf

    @property
    def on_the_mean(self) -> bool:
        """Return whether an attack climbs what is judged: the mean of passes, or the one of a network without draws."""
        gradients = [getattr(e.attack, "gradient", None) for e in self.own]
        return self.without_draws or any(getattr(one, "average", "loss") == "probabilities" for one in gradients)

    @property
    def own(self) -> list[Evidence]:
        """Return the attacks along the network's own gradient."""
        return [e for e in self.evidence if e.own_gradient]

    @property
    def white_box(self) -> list[Evidence]:
        """Return the attacks along the own gradient; by identity or relaxed backward where there are no others."""
        return [e for e in self.own if e.backward not in ("identity", "relaxed")] or self.own

    @property
    def plain(self) -> bool:
        """Return whether the own gradient was taken of a network without backward rules."""
        return bool(self.own) and not any(e.has_rules for e in self.own)

    @property
    def without_draws(self) -> bool:
        """Return whether the own gradient was taken of a network whose passes are all the same."""
        return bool(self.own) and not any(e.has_rules if e.random is None else e.random for e in self.own)

"""The protocol: on which images, against what, with how many passes, and what is reported; docs/benchmark/protocol.md.

The document and this object say the same; a change of either is a new version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from saplab.attacks import NormName, ThreatModel
from saplab.attacks.batteries import VERSIONS


@dataclass(frozen=True)
class Threat:
    """A norm, and the radii at which every entry is attacked, ascending, in the unit of [0, 1] images."""

    norm: NormName
    eps: tuple[float, ...]

    @property
    def model(self) -> ThreatModel:
        """Return the norm within [0, 1], as attacks take it."""
        return ThreatModel(self.norm)


@dataclass(frozen=True)
class Tier:
    """How much is computed of an entry.

    Attributes:
        images: the first N of the data set; None for all.
        passes: averaged for a prediction, and counted one by one.
        samples: passes averaged for a gradient, of attacks of one step; those of many steps take a quarter in each.
        n0, n: passes that choose a certificate's class, and that count it.
        batch: images of one stored cell, so that a kill costs no more.
        budget: for what machine it is meant.
        listed: whether its cards are for the leaderboard.
    """

    name: str
    images: int | None
    passes: int
    samples: int
    n0: int
    n: int
    batch: int
    budget: str
    listed: bool = True


@dataclass(frozen=True)
class Protocol:
    """What all entries have in common.

    Attributes:
        version: raised with every change that changes a number or its meaning.
        battery: the attacks, and `battery_version` theirs.
        threats: norms and radii; the first one's largest radius is that of the leaderboard.
        whole: CIFAR-10's whole test set, for those who name a folder of it: its name, count of images and SHA-256.
        alpha: chance that an image's certificate is wrong.
        tries: of an attacker who goes on trying.
        clean_tolerance, tolerance: by how many points of accuracy a recomputed card may differ on another kind of
            machine, without an attack and under one; on the same kind it may not.
    """

    version: str
    battery: str
    battery_version: str
    threats: tuple[Threat, ...]
    tiers: Mapping[str, Tier]
    seed: int
    whole: tuple[str, int, str]
    alpha: float
    tries: int
    clean_tolerance: float
    tolerance: float

    def tier(self, name: str) -> Tier:
        """Return the tier of a name; ValueError lists what there is."""
        if name not in self.tiers:
            raise ValueError(f"`tier` must be one of {', '.join(self.tiers)}, got {name!r}")
        return self.tiers[name]

    @property
    def headline(self) -> tuple[NormName, float]:
        """Return the norm and the radius of the leaderboard."""
        return self.threats[0].norm, self.threats[0].eps[-1]

    @property
    def second(self) -> tuple[NormName, float]:
        """Return the norm and the largest radius of the other threat model."""
        return self.threats[1].norm, self.threats[1].eps[-1]


_TIERS: Final = (
    Tier("small", images=100, passes=20, samples=20, n0=100, n=1000, batch=50, budget="two CPU cores"),
    Tier("full", images=1000, passes=100, samples=40, n0=100, n=10_000, batch=500, budget="one GPU"),
    Tier("smoke", images=6, passes=10, samples=4, n0=10, n=40, batch=3, budget="seconds, for tests", listed=False),
)

PROTOCOL: Final = Protocol(
    version="1", battery="standard", battery_version=VERSIONS["standard"],
    threats=(Threat("linf", (2 / 255, 4 / 255, 8 / 255)), Threat("l2", (0.5,))),
    tiers={tier.name: tier for tier in _TIERS}, seed=0, alpha=0.001, tries=10, clean_tolerance=1.0, tolerance=4.0,
    whole=("CIFAR-10 test", 9980, "3026d1a9e322bf3193a94de26b03129bfa5a1b24a8a49ee5e99ea1833c0fc63a"),
)  # fmt: skip

"""Can a card be what it says? What can be told from the card alone, without computing it again."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Final

from saplab.benchmark.card import Card, Certified, Counted, Data, Left, Share, Threatened
from saplab.benchmark.protocol import PROTOCOL, Tier
from saplab.benchmark.run import load_images
from saplab.defenses import GaussianNoise
from saplab.evaluation.certificates import ceiling
from saplab.evaluation.checks import possible_answers

_DIGITS: Final = 1e-3  # points by which numbers of four digits may miss each other


def is_current(card: Card) -> bool:
    """Return whether a card is of this version of the protocol and of its attacks: no others are compared."""
    return (card.protocol, card.battery) == (PROTOCOL.version, f"{PROTOCOL.battery} {PROTOCOL.battery_version}")


def check_card(card: Card) -> None:
    """Refuse a card of this version of the protocol that no run of `saplab benchmark` can have written.

    What passes may still be made up: that is what `--check` is for.

    Raises:
        ValueError: says what cannot be.
    """
    if not is_current(card):
        return
    tier = PROTOCOL.tier(card.tier)
    _check_size(card, tier)
    balls = [(threat.norm, tuple(left.eps for left in threat.left)) for threat in card.threats]
    if balls != [(threat.norm, threat.eps) for threat in PROTOCOL.threats]:
        raise ValueError(f"a card must be of the protocol's norms and radii, got {balls}")
    for where, share in _shares(card):
        if not share.low <= share.percent <= share.high:
            raise ValueError(
                f"{where} must lie within its interval, got {share.percent:g} in {share.low:g} to {share.high:g}"
            )
    for threat in card.threats:
        _check_threat(threat, card.clean)
    if card.certified is not None:
        _check_certified(card.certified, card.network.defense, tier)


def _check_size(card: Card, tier: Tier) -> None:
    """Refuse other numbers of passes, samples or images than the tier's, and other images than CIFAR-10's."""
    asked = {"passes": tier.passes, "samples": tier.samples, "seed": PROTOCOL.seed}
    for name, value in asked.items():
        if getattr(card, name) != value:
            raise ValueError(f"the tier {card.tier} has {name} {value}, the card {getattr(card, name)}")
    known = (sample := _sample(tier), Data(*PROTOCOL.whole))
    if card.data not in known:
        raise ValueError(f"the images must be the first {sample.images} of the packaged sample, or CIFAR-10's test set,"
                         f" got {card.data.images:,} others")  # fmt: skip


@cache
def _sample(tier: Tier) -> Data:
    images = load_images(tier)
    return Data(images.name, len(images), images.digest())


def _shares(card: Card) -> Iterator[tuple[str, Share]]:
    """Yield every accuracy that has an interval, after what it is."""
    yield from _counted("the accuracy without an attack", card.clean)
    for threat in card.threats:
        for row in threat.attacks:
            yield from _counted(f"what {row.attack} leaves", row.counted)
        for left in threat.left:
            yield f"what is left in {threat.norm}", left.worst
    for at in card.certified.accuracy if card.certified else ():
        yield "certified accuracy", at.accuracy


def _counted(where: str, found: Counted) -> Iterator[tuple[str, Share]]:
    yield where, found.averaged
    yield where, found.single_pass
    if found.tries is not None:
        yield f"{where} after {PROTOCOL.tries} tries", found.tries
        if found.tries.percent > found.single_pass.percent + _DIGITS:
            raise ValueError(f"{where} after {PROTOCOL.tries} tries cannot be more than after one")


def _check_threat(threat: Threatened, clean: Counted) -> None:
    where = f"what a card says is left in {threat.norm}"
    if any(first.worst.percent < second.worst.percent for first, second in pairwise(threat.left)):
        raise ValueError(f"{where} must fall with the radius")
    for left in threat.left:
        _check_left(left, threat, clean, where)
    outcomes = {check.key: check.outcome for check in threat.checks}
    if threat.masked not in possible_answers(outcomes):
        raise ValueError(f"whether the gradient is masked in {threat.norm} must follow from the card's checks")


def _check_left(left: Left, threat: Threatened, clean: Counted, where: str) -> None:
    """Refuse what is left within a radius unless it is what the card's own attacks leave.

    The worst is judged by halves of the passes: it may lie a little above what one attack leaves, or no attack.
    """
    rows = [row for row in threat.attacks if row.eps <= left.eps]
    found = [row.counted for row in rows]
    if left.attack not in {row.attack for row in rows} or left.eps not in {row.eps for row in rows}:
        raise ValueError(f"{where} must be by one of the card's attacks, got {left.attack!r}")
    if left.worst.low > min(one.averaged.high for one in (clean, *found)):
        raise ValueError(f"{where} lies above what its attacks leave, or above the accuracy without one")
    tries = [one.tries.percent for one in found if one.tries is not None]
    least = (
        min(one.single_pass.percent for one in found),
        min(one.majority for one in found),
        min(tries, default=None),
    )
    if (left.single_pass.percent, left.majority, left.tries.percent if left.tries else None) != least:
        raise ValueError(f"{where} must be the least that one attack leaves, counted in each way")


def _check_certified(proof: Certified, defense: str, tier: Tier) -> None:
    if defense != GaussianNoise(proof.std).spec:
        raise ValueError(f"certificates of σ = {proof.std:g} are of that Gaussian noise alone, got {defense!r}")
    if (proof.n0, proof.n, proof.alpha) != (tier.n0, tier.n, PROTOCOL.alpha):
        raise ValueError(f"certificates of this tier take {tier.n0} and {tier.n} passes at α = {PROTOCOL.alpha:g},"
                         f" got {proof.n0}, {proof.n} and {proof.alpha:g}")  # fmt: skip
    radii = [at.radius for at in proof.accuracy]
    shares = [at.accuracy.percent for at in proof.accuracy]
    if radii != sorted(set(radii)) or shares != sorted(shares, reverse=True):
        raise ValueError("certified accuracy must fall with its radius")
    if any(radius > ceiling(proof.std, proof.n, proof.alpha) for radius in radii):
        raise ValueError(f"nothing is certified beyond what {proof.n} passes can tell")

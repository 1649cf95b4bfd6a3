"""Can a card be what it says? What can be told from the card alone, without computing it again."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from statistics import fmean
from typing import Final

from saplab.attacks import MonteCarlo, ThreatModel
from saplab.attacks.batteries import attackers_of
from saplab.benchmark.card import Card, Certified, Counted, Data, Left, PublishedFound, Share, Threatened
from saplab.benchmark.protocol import PROTOCOL, Tier
from saplab.benchmark.run import load_images
from saplab.benchmark.words import ball
from saplab.defenses import GaussianNoise
from saplab.evaluation.certificates import ceiling
from saplab.evaluation.checks import QUESTIONS, possible_answers
from saplab.metrics.intervals import normal_quantile, wilson

_DIGITS: Final = 1e-3  # points by which numbers of four digits may miss each other
_SHOWN: Final = 0.051  # points by which a number of one digit may miss one of four
_EARLY: Final = timedelta(days=1)  # by which another clock may be ahead
_HOW: Final = re.compile(r"^transfer | ×[0-9]+| (?:mask|identity|probability|relaxed)(?= |$)")  # not what an attack is
_HEAD: Final = re.compile(r"Robust accuracy at (.+?) is at most ([0-9.]+) % \[([0-9.]+), ([0-9.]+)\]")


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
    if datetime.fromisoformat(card.time) > datetime.now(UTC) + _EARLY:
        raise ValueError(f"a card cannot be finished in the future, got {card.time}")
    balls = [(threat.norm, tuple(left.eps for left in threat.left)) for threat in card.threats]
    if balls != [(threat.norm, threat.eps) for threat in PROTOCOL.threats]:
        raise ValueError(f"a card must be of the protocol's norms and radii, got {balls}")
    random = card.clean.tries is not None
    for where, share, trials in _shares(card, tier.passes if random else 1):
        _check_share(where, share, card.data.images, trials)
    for threat in card.threats:
        _check_battery(threat, tier, random)
        _check_threat(threat, card.clean, card.data.images)
    if card.certified is not None:
        _check_certified(card.certified, card, tier)
    if card.published is not None:
        _check_published(card.published, card)


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


def _shares(card: Card, passes: int) -> Iterator[tuple[str, Share, int]]:
    """Yield every accuracy that has an interval, after what it is, and before how many judgements an image has in it.

    That is 0 for an accuracy that counts nothing, but estimates a chance.
    """
    yield from _counted("the accuracy without an attack", card.clean, passes, card.data.images)
    for threat in card.threats:
        for row in threat.attacks:
            yield from _counted(f"what {row.attack} leaves", row.counted, passes, card.data.images)
        for left in threat.left:
            yield f"what is left in {threat.norm}", left.worst, 1 if passes == 1 else 2  # halves of the passes
    for at in card.certified.accuracy if card.certified else ():
        yield "certified accuracy", at.accuracy, 1


def _counted(where: str, found: Counted, passes: int, images: int) -> Iterator[tuple[str, Share, int]]:
    yield where, found.averaged, 1
    yield where, found.single_pass, passes
    _check_count(f"{where}, by the majority,", found.majority, images)
    if found.tries is not None:
        yield f"{where} after {PROTOCOL.tries} tries", found.tries, 0
        if found.tries.percent > found.single_pass.percent + _DIGITS:
            raise ValueError(f"{where} after {PROTOCOL.tries} tries cannot be more than after one")


def _check_share(where: str, share: Share, images: int, trials: int) -> None:
    """Refuse an accuracy outside its interval, one that so many images cannot give, and an interval that is not its."""
    if not share.low <= share.percent <= share.high:
        raise ValueError(
            f"{where} must lie within its interval, got {share.percent:g} in {share.low:g} to {share.high:g}"
        )
    if not trials:
        return
    _check_count(where, share.percent, images * trials)
    widest = _wilson(share, images)
    if share.low < widest[0] - _DIGITS or share.high > widest[1] + _DIGITS:
        raise ValueError(f"{where} has a wider interval than {images} images give: {share.low:g} to {share.high:g}")
    if trials == 1 and (share.low > widest[0] + _DIGITS or share.high < widest[1] - _DIGITS):
        raise ValueError(f"{where} has a narrower interval than {images} images give: {share.low:g} to {share.high:g}")


def _check_count(where: str, percent: float, judged: int) -> None:
    hits = percent / 100 * judged
    if abs(hits - round(hits)) > _DIGITS / 100 * judged:
        raise ValueError(f"{where} must be a share of {judged:,} judgements, got {percent:g} %")


def _wilson(share: Share, images: int) -> tuple[float, float]:
    low, high = wilson(share.percent / 100, images, normal_quantile(0.95))
    return 100 * low, 100 * high


def _check_battery(threat: Threatened, tier: Tier, random: bool) -> None:
    """Refuse a card without an attack, a radius or a check that every network of its kind meets."""
    rows = Counter((row.attack, row.eps) for row in threat.attacks)
    radii = {left.eps for left in threat.left}
    if max(rows.values(), default=0) > 1 or any(
        {eps for attack, eps in rows if attack == name} != radii for name, _ in rows
    ):
        raise ValueError(f"every attack in {threat.norm} must stand once at each radius")
    found = {_HOW.sub("", name) for name, _ in rows}
    if lacking := sorted(_attacks(tier, threat.norm, random) - found):
        raise ValueError(f"a card must hold the attacks of the battery {PROTOCOL.battery} in {threat.norm}; it lacks"
                         f" {', '.join(lacking)}")  # fmt: skip
    keys = Counter(check.key for check in threat.checks)
    asked = {one.key for one in QUESTIONS if not one.of_rules and (random or not one.of_draws)}
    if max(keys.values(), default=0) > 1 or not asked <= keys.keys() <= {one.key for one in QUESTIONS}:
        raise ValueError(
            f"a card must hold each check of the verdict once in {threat.norm}, got {', '.join(keys) or 'none'}"
        )


@cache
def _attacks(tier: Tier, norm: str, random: bool) -> frozenset[str]:
    """Return what a network of logits meets whatever it is otherwise, without samples and backward rules."""
    attackers = attackers_of(PROTOCOL.battery, MonteCarlo(tier.samples), ThreatModel(norm))  # type: ignore[arg-type]
    always = (
        one for one in attackers
        if one.only is None or (one.only.random in (None, random) and not (one.only.blind or one.only.mixture
                                                                          or one.only.saturated))
    )  # fmt: skip
    return frozenset(_HOW.sub("", one.attack.describe(False)) for one in always)


def _check_threat(threat: Threatened, clean: Counted, images: int) -> None:
    where = f"what a card says is left in {threat.norm}"
    if any(first.worst.percent < second.worst.percent for first, second in pairwise(threat.left)):
        raise ValueError(f"{where} must fall with the radius")
    for left in threat.left:
        _check_left(left, threat, clean, where, images)
    outcomes = {check.key: check.outcome for check in threat.checks}
    if threat.masked not in possible_answers(outcomes):
        raise ValueError(f"whether the gradient is masked in {threat.norm} must follow from the card's checks")
    _check_sentence(threat)


def _check_sentence(threat: Threatened) -> None:
    """Refuse a sentence that says another number than the card, or otherwise of a masked gradient."""
    head, largest = _HEAD.match(threat.sentence), threat.left[-1]
    told = [*map(float, head.groups()[1:])] if head else []
    known = [largest.worst.percent, largest.worst.low, largest.worst.high]
    about = ball(threat.norm, largest.eps)
    if not head or head[1] != about or any(abs(a - b) > _SHOWN for a, b in zip(told, known, strict=True)):
        raise ValueError(f"the verdict in {threat.norm} must begin with what is left at {about}")
    says = {"due to a masked gradient": True, "none shows a masked gradient": False}
    if any(words in threat.sentence and threat.masked is not masked for words, masked in says.items()):
        raise ValueError(f"the verdict in {threat.norm} says otherwise of a masked gradient than the card")


def _check_left(left: Left, threat: Threatened, clean: Counted, where: str, images: int) -> None:
    """Refuse what is left within a radius unless it is what the card's own attacks leave.

    The worst is judged by halves of the passes: it may lie a little above what one attack leaves, or no attack.
    """
    rows = [row for row in threat.attacks if row.eps <= left.eps]
    found = [row.counted for row in rows]
    if left.attack not in {row.attack for row in rows} or left.eps not in {row.eps for row in rows}:
        raise ValueError(f"{where} must be by one of the card's attacks, got {left.attack!r}")
    if left.worst.percent > min(one.averaged.percent for one in (clean, *found)) + _slack(images):
        raise ValueError(f"{where} lies above what its attacks leave, or above the accuracy without one")
    tries = [one.tries.percent for one in found if one.tries is not None]
    least = (
        min(one.single_pass.percent for one in found),
        min(one.majority for one in found),
        min(tries, default=None),
    )
    if (left.single_pass.percent, left.majority, left.tries.percent if left.tries else None) != least:
        raise ValueError(f"{where} must be the least that one attack leaves, counted in each way")


def _slack(images: int) -> float:
    """Return by how many points what is judged by some passes may lie above what is judged by others."""
    return max(PROTOCOL.tolerance, 200 / images)


def _check_certified(proof: Certified, card: Card, tier: Tier) -> None:
    defense = card.network.defense
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
    norm, eps = PROTOCOL.second
    found = ((0.0, card.clean.averaged), (eps, left.worst if (left := card.left(norm, eps)) else None))
    for radius, share in found:
        if share and proof.at(radius).percent > share.percent + _slack(card.data.images):
            raise ValueError(f"no more can be certified within {radius:g} than attacks leave there")


def _check_published(theirs: PublishedFound, card: Card) -> None:
    """Refuse another mean than that of its draws, and beside it another number than the card's own in that ball."""
    if not theirs.runs or abs(theirs.percent - fmean(theirs.runs)) > _DIGITS:
        raise ValueError("what the paper's evaluation leaves must be the mean over its draws")
    left = card.left(theirs.norm, theirs.eps)
    own = None if left is None else left.single_pass.percent if theirs.single_pass else left.worst.percent
    if theirs.found != own:
        raise ValueError("what is found beside the paper's evaluation must be what the card leaves in that ball")

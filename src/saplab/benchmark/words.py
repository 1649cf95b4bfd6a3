"""What cards and the leaderboard call things."""

from saplab.attacks import NormName, ThreatModel
from saplab.benchmark.card import Card, Share, Threatened
from saplab.benchmark.protocol import PROTOCOL
from saplab.evaluation.checks import EXPOSING
from saplab.metrics.intervals import normal_quantile, wilson

MASKED = {True: "masked", False: "no", None: "cannot tell"}  # whether the own gradient is


def ball(norm: NormName, eps: float) -> str:
    """Return a radius in its norm, as people read it: ``λ = 8``, ``ε = 0.5 in L2``."""
    threat = ThreatModel(norm)
    return f"{threat.text(eps)}{threat.setting}"


def share_text(share: Share | None) -> str:
    """Return a share with its interval: ``41.5 [34.9, 48.4]``; a dash for none."""
    return "–" if share is None else f"{share.percent:.1f} [{share.low:.1f}, {share.high:.1f}]"


def number_text(percent: float | None) -> str:
    """Return a number in %; a dash for none."""
    return "–" if percent is None else f"{percent:.1f}"


def is_listed(card: Card) -> bool:
    """Return whether a card's tier is meant for the leaderboard; the others prove nothing."""
    tier = PROTOCOL.tiers.get(card.tier)
    return tier is not None and tier.listed


def tier_text(card: Card) -> str:
    """Return what to say of a card's tier beside its name; "" for the usual one."""
    if not is_listed(card):
        return f"{card.tier}: {card.data.images:,} images, which prove nothing"
    return "" if card.tier == "small" else f"{card.tier}: {card.data.images:,} images"


def tries(card: Card) -> Share | None:
    """Return what several tries leave at the leaderboard's radius: where passes do not differ, what one leaves."""
    left = card.left(*PROTOCOL.headline)
    return None if left is None else left.single_pass if card.clean.tries is None else left.tries


def published_text(card: Card) -> str:
    """Return what the paper's own evaluation leaves, with the interval that so many images allow at most."""
    found = card.published
    if found is None:
        return ""
    low, high = wilson(found.percent / 100, card.data.images, normal_quantile(0.95))
    return share_text(Share(found.percent, 100 * low, 100 * high))


def masked_text(card: Card) -> str:
    """Return whether the gradient is masked in any of the norms, and by which checks that shows."""
    answers = [threat.masked for threat in card.threats]
    worst = True if True in answers else None if None in answers else False
    failed = dict.fromkeys(key for threat in card.threats if threat.masked for key in _shown_by(threat))
    return MASKED[worst] + (f" ({', '.join(failed)})" if failed else "")


def _shown_by(threat: Threatened) -> list[str]:
    """Return the checks by which a masked gradient shows: another loss only where it shows by nothing else."""
    failed = [check.key for check in threat.checks if check.outcome == "failed"]
    return [key for key in failed if key in EXPOSING] or [key for key in failed if key == "loss"]


def time_text(seconds: float) -> str:
    """Return a time in minutes, in seconds where it is short."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"

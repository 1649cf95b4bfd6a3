"""Does a recomputed card agree with the stored one?"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from saplab.benchmark.card import Calibrated, Card, Counted, Share, Threatened
from saplab.benchmark.protocol import PROTOCOL
from saplab.benchmark.words import MASKED, ball

_NOTHING: Final = ("nothing", True, 0.0)


@dataclass(frozen=True)
class Comparison:
    """Two cards of one entry.

    Attributes:
        same_kind: whether machines of one kind made them, so that every number must be the same.
        compared: how many numbers were compared.
        differences: those that differ by more than they may, in words.
        largest: the largest difference of an accuracy, in points.
    """

    same_kind: bool
    compared: int
    differences: tuple[str, ...]
    largest: float

    @property
    def agrees(self) -> bool:
        """Return whether nothing differs by more than it may."""
        return not self.differences

    @property
    def text(self) -> str:
        """Return what was found, in a sentence."""
        kind = "of the same kind" if self.same_kind else "of another kind"
        limits = (
            "exactly"
            if self.same_kind
            else f"within {PROTOCOL.clean_tolerance:g} points clean, {PROTOCOL.tolerance:g} attacked"
        )
        head = f"{self.compared} numbers, machine {kind}: "
        if self.agrees:
            return f"{head}agree {limits} (largest difference {self.largest:.2f} points)"
        return f"{head}{len(self.differences)} differ: {'; '.join(self.differences[:5])}"


def compare(stored: Card, found: Card) -> Comparison:
    """Compare a recomputed card with the stored one.

    On machines of one kind (processor, device, threads, PyTorch, NumPy) all numbers and the outcomes of all checks must
    be equal. Elsewhere rounding differs, which an attack of many steps amplifies: accuracies may differ by the
    protocol's tolerances, and a verdict that could be told must not turn into its opposite.

    Raises:
        ValueError: cards of other entries, protocols, sizes, networks or images, which cannot be compared.
    """
    for name, mine, other in _facts(stored, found):
        if mine != other:
            raise ValueError(f"{stored.name}: the stored card has another {name} ({mine}) than this one ({other})")
    same = stored.machine.kind == found.machine.kind
    numbers = list(zip_longest(_numbers(stored, same), _numbers(found, same), fillvalue=_NOTHING))
    differences, largest = [], 0.0
    for (name, clean, mine), (other_name, _, other) in numbers:
        if name != other_name:
            differences.append(f"{name} against {other_name}")
            break
        gap = abs(mine - other)
        largest = max(largest, gap)
        allowed = 0.0 if same else PROTOCOL.clean_tolerance if clean else PROTOCOL.tolerance
        if gap > allowed + 1e-9:
            differences.append(f"{name}: {mine:g} stored, {other:g} found")
    differences += _verdicts(stored, found, same)
    return Comparison(same, len(numbers), tuple(differences), largest)


def _facts(stored: Card, found: Card) -> Iterator[tuple[str, object, object]]:
    for name in ("name", "protocol", "battery", "tier", "seed", "passes", "samples"):
        yield name, getattr(stored, name), getattr(found, name)
    yield "network", stored.network.digest[:12], found.network.digest[:12]
    yield "defence", stored.network.defense, found.network.defense
    yield "images", stored.data.digest[:12], found.data.digest[:12]


def _numbers(card: Card, every: bool) -> Iterator[tuple[str, bool, float]]:
    """Yield the name of every accuracy, and of every other number as well, whether one without an attack, and it.

    All are in %, but for Brier scores and NLL.
    """
    yield from ((f"clean, {name}", True, value) for name, value in _counted(card.clean))
    for threat in card.threats:
        yield from ((name, False, value) for name, value in _threat(threat))
        for row in threat.calibration if every else ():
            where = f"{row.attack} at {ball(threat.norm, row.eps)}"
            yield from ((f"{where}, {name}", False, value) for name, value in _calibrated(row))
    if card.published is not None:
        for k, percent in enumerate(card.published.runs):
            yield f"the paper's evaluation, draw {k}", False, percent
    if card.certified is not None:
        yield "abstained", True, card.certified.abstained.percent
        for at in card.certified.accuracy:
            yield f"certified at {at.radius:g}", True, at.accuracy.percent


def _threat(threat: Threatened) -> Iterator[tuple[str, float]]:
    for left in threat.left:
        where = ball(threat.norm, left.eps)
        yield f"worst of all at {where}", left.worst.percent
        yield f"one pass at {where}", left.single_pass.percent
        yield f"majority at {where}", left.majority
        yield from ((f"10 tries at {where}", share.percent) for share in _given(left.tries))
    for row in threat.attacks:
        where = f"{row.attack} at {ball(threat.norm, row.eps)}"
        yield from ((f"{where}, {name}", value) for name, value in _counted(row.counted))


def _calibrated(row: Calibrated) -> Iterator[tuple[str, float]]:
    yield "ECE", row.ece.percent
    yield "adaptive ECE", row.adaptive_ece
    yield "Brier", row.brier
    yield from (("NLL", value) for value in (row.nll,) if value is not None)
    yield "ECE of one pass", row.single_pass_ece


def _counted(found: Counted) -> Iterator[tuple[str, float]]:
    yield "averaged", found.averaged.percent
    yield "one pass", found.single_pass.percent
    yield "majority", found.majority
    yield from (("10 tries", share.percent) for share in _given(found.tries))


def _given(share: Share | None) -> tuple[Share, ...]:
    return () if share is None else (share,)


def _verdicts(stored: Card, found: Card, same: bool) -> Iterator[str]:
    for mine, other in zip(stored.threats, found.threats, strict=True):
        opposite = mine.masked is not None and other.masked is not None and mine.masked != other.masked
        if mine.masked != other.masked if same else opposite:
            yield f"masked gradient in {mine.norm}: {MASKED[mine.masked]} stored, {MASKED[other.masked]} found"
        outcomes, others = ({check.key: check.outcome for check in one.checks} for one in (mine, other))
        if same and outcomes != others:
            unlike = sorted(key for key, _ in outcomes.items() ^ others.items())
            yield f"checks in {mine.norm} end otherwise: {', '.join(dict.fromkeys(unlike))}"

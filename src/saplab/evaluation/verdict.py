"""What a network's accuracy under attack means: a bound, the checks behind it, and two sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.attacks import LINF, ThreatModel
from saplab.evaluation.checks import Check, answers, is_masked
from saplab.evaluation.evidence import Case, Evidence
from saplab.evaluation.given import Given, evidence_of_all
from saplab.evaluation.sentence import describe, explain
from saplab.metrics import Interval, mean_interval
from saplab.metrics.counting import TRIES, left_after
from saplab.metrics.worst_case import cross_fit, margins

SEEN: Final = 0.0005  # smallest difference of accuracies that a text shows


@dataclass(frozen=True)
class Robust:
    """An upper bound on robust accuracy.

    Attributes:
        eps: the radius, in the unit of the images; at least 0.
        accuracy: what all attacks together leave, 0 to 1, with its 95 % interval over images.
        attack: label of the one that alone leaves least, among those that `accuracy` is of.
        threat: norm and bounds in which `eps` is measured.
        alone: what that attack alone leaves, 0 to 1, where all passes together judge; None where it is not known.
    """

    eps: float
    accuracy: Interval
    attack: str
    threat: ThreatModel = LINF
    alone: float | None = None

    @property
    def strength(self) -> float:
        """Return the number that people read for the radius: λ in pixel steps, or ε in the norm's own unit."""
        return self.threat.shown(self.eps)

    @property
    def less_alone(self) -> float | None:
        """Return `alone` where it visibly lies below the bound, None elsewhere.

        Only half of the passes judge each image for the bound: the other half has chosen its worst attack and radius.
        """
        seen = self.alone is not None and self.accuracy.estimate - self.alone >= SEEN
        return self.alone if seen else None


@dataclass(frozen=True)
class Persistent:
    """What an attacker leaves who may try several times on each image, each time meeting a pass of its own.

    Attributes:
        eps: the radius, in the unit of the images; at least 0.
        tries: how many, 10 or 100.
        accuracy: the share of images, 0 to 1, that is right in all of them, with its 95 % interval.
        attack: label of the one that alone leaves least.
        threat: norm and bounds in which `eps` is measured.
    """

    eps: float
    tries: int
    accuracy: Interval
    attack: str
    threat: ThreatModel = LINF

    @property
    def strength(self) -> float:
        """Return the number that people read for the radius, as `Robust` does."""
        return self.threat.shown(self.eps)


@dataclass(frozen=True)
class Verdict:
    """What the evidence says.

    Attributes:
        sentence: what was found.
        meaning: what that means, in words that need no knowledge of the field.
        checks: every property that fits the network, also those that nothing tells of yet.
        robust: for each radius, ascending, the worst case over all the evidence.
        masked: whether an attack that should be weaker takes away what one by the own gradient leaves; None where the
            evidence cannot tell.
        headline: the entry of `robust` that the sentence speaks of.
        persistent: what an attacker who goes on trying leaves at that radius, as far as the passes tell.
    """

    sentence: str
    meaning: str
    checks: tuple[Check, ...]
    robust: tuple[Robust, ...]
    masked: bool | None
    headline: Robust
    persistent: tuple[Persistent, ...] = ()

    def fails(self, percent: float) -> bool:
        """Return whether the lower end of robust accuracy's interval is below `percent`, or the gradient is masked.

        Behind a masked gradient accuracy is only bounded from above, however high the bound. Without an attack nothing
        is known of robustness, which fails too.
        """
        return self.masked is True or self.headline.eps == 0 or 100 * self.headline.accuracy.low < percent


def verdict(
    defended: Given, dense: Given = (), labels: ArrayLike | None = None, *,
    eps: float | None = None,
) -> Verdict:  # fmt: skip
    """Decide from predictions what a network's accuracy under attack means.

    Robust accuracy at a radius is bounded by the worst attack on each image, cross-fitted
    (`saplab.metrics.worst_case`) over the evidence with `halves`. Evidence without them counts as a whole, since the
    least of several fresh draws is biased low; the best of k attacks and radii has the confidence 1 - 0.05 / k.

    Args:
        defended: attacks on the network in question, all on the same images: `Evidence`, or a dict by attack, as the
            command line writes it, of dicts by radius of arrays. An array holds for each image 1 where it is still
            right and 0 where not (N,), or mean probabilities (N, C), or those of each pass (passes, N, C).
        dense: attacks on the undefended network, for the length of its gradient and its own worst case.
        labels: classes (N,), needed for probabilities, and where evidence has `halves`.
        eps: radius that the sentence speaks of; by default the largest up to the usual one, 8/255 or in L2 0.5.

    Raises:
        ValueError: no evidence, other numbers of images, no labels for probabilities, an unknown attack, or an `eps`
            that was not run.

    Examples:
        >>> own, straight = np.arange(100) < 60, np.arange(100) < 5  # still right, of 100 images at 8/255
        >>> saplab.verdict({"pgd": {8 / 255: own}, "pgd:backward=identity": {8 / 255: straight}}).masked
        True
    """
    defended, dense = (
        evidence_of_all(given, labels, name) for name, given in (("defended", defended), ("dense", dense))
    )
    _check(defended, dense, labels)
    bounds = _worst_of(defended, labels)
    headline = _headline(bounds, eps)
    case = Case(defended, dense, _chance(defended))
    found = answers(case)
    masked = is_masked(case, found, headline.eps)
    if masked is False and not any(e.iterative for e in case.white_box):
        masked = None  # one step bounds too loosely
    undefended = {bound.eps: bound.accuracy for bound in _worst_of(dense, labels)}
    dense_left = undefended.get(headline.eps)
    sentence = describe(case, found, masked, headline.eps, headline.accuracy, dense_left, headline.less_alone)
    checks, persistent = tuple(answer.check for answer in found), tuple(_persistent(defended, headline.eps))
    meaning = _by_luck(bounds[0], case.chance) + explain(case, found, masked, headline.eps, headline.accuracy)
    return Verdict(sentence, meaning, checks, bounds, masked, headline, persistent)


_FAR: Final = 1.5  # times chance, above which a few images show nothing against the labels


def _by_luck(first: Robust, chance: float) -> str:
    """Return a question about the labels, where the network is no better than chance without an attack."""
    clean = first.accuracy
    if first.eps or not chance or clean.low > chance or clean.estimate > _FAR * chance:
        return ""
    found = f"Without an attack, {100 * clean.estimate:.1f} % is not above chance, {100 * chance:.1f} %"
    return f"{found}: do the labels belong to these images? "


def _persistent(evidence: Sequence[Evidence], eps: float) -> Iterator[Persistent]:
    """Yield what the strongest attack within a radius leaves after each number of tries that the passes tell of."""
    for tries in TRIES:
        known = [(e, k) for e in evidence if e.hits is not None and e.passes >= tries for k in range(len(e.eps))]
        left = [(left_after(cast(Any, e.hits)[k], e.passes, tries), e) for e, k in known if e.eps[k] <= eps]
        if left:
            scores, strongest = min(left, key=lambda pair: float(pair[0].mean()))
            accuracy = mean_interval(scores, strongest.passes // tries, confidence=1 - 0.05 / len(left))
            yield Persistent(eps, tries, accuracy, strongest.label, strongest.threat)


def _worst_of(evidence: Sequence[Evidence], labels: ArrayLike | None) -> tuple[Robust, ...]:
    known = [(e, margins(e.halves, labels)) for e in evidence if e.halves is not None and labels is not None]
    bounds: list[Robust] = []
    for eps in sorted({eps for e in evidence for eps in e.eps}):
        bound = _clean(evidence) if eps == 0 else None
        bound = bound or _bound(evidence, known, eps)
        if bounds and bound.accuracy.estimate > bounds[-1].accuracy.estimate:  # balls are nested: it bounds this too
            bound = replace(bound, accuracy=bounds[-1].accuracy)
        bounds.append(bound)
    return tuple(bounds)


def _clean(evidence: Sequence[Evidence]) -> Robust | None:
    """Return what all passes leave without an attack, among which nothing is chosen; None where evidence differs."""
    first, *others = [e for e in evidence if e.eps[0] == 0]
    if not all(np.array_equal(first.right[0], other.right[0]) for other in others):
        return None
    accuracy = mean_interval(first.right[0])
    return Robust(0.0, accuracy, first.label, first.threat, accuracy.estimate)


def _bound(evidence: Sequence[Evidence], known: Sequence[tuple[Evidence, NDArray[np.float64]]], eps: float) -> Robust:
    whole = [(e.least_within(eps), e.label) for e in evidence if e.halves is None and e.eps[0] <= eps]
    candidates = [(scores, label, float(scores.mean())) for scores, label in whole]
    nested = [(e, margin, np.asarray(e.eps) <= eps) for e, margin in known if e.eps[0] <= eps]
    if nested:
        alone, strongest = min(
            ((float(e.right[inside].mean(axis=1).min()), e) for e, _, inside in nested), key=lambda pair: pair[0]
        )
        rows = np.concatenate([margin[:, inside] for _, margin, inside in nested], axis=1)
        candidates.append((cross_fit(rows), strongest.label, alone))
    least, label, alone = min(candidates, key=lambda candidate: float(candidate[0].mean()))
    chosen = len(candidates) - len(whole) + sum(radius <= eps for e in evidence if e.halves is None for radius in e.eps)
    return Robust(eps, mean_interval(least, confidence=1 - 0.05 / chosen), label, evidence[0].threat, alone)


def _headline(bounds: Sequence[Robust], eps: float | None) -> Robust:
    if eps is not None:
        by_eps = {bound.eps: bound for bound in bounds}
        if eps not in by_eps:
            raise ValueError(f"`eps` must be one of the radii that were run, {list(by_eps)}, got {eps}")
        return by_eps[eps]
    attacked = [bound for bound in bounds if bound.eps > 0] or list(bounds)
    return max((b for b in attacked if b.threat.up_to_usual(b.eps)), key=lambda b: b.eps, default=attacked[0])


def _chance(evidence: Sequence[Evidence]) -> float:
    """Return the accuracy of a guess among as many classes as there are; 0 where that is not known."""
    classes = max(e.classes if e.halves is None else e.halves.shape[-1] for e in evidence)
    return 1 / classes if classes else 0.0


def _check(defended: Sequence[Evidence], dense: Sequence[Evidence], labels: ArrayLike | None) -> None:
    if not defended:
        raise ValueError("`defended` must hold at least one attack's evidence, got none")
    images = {e.n for e in (*defended, *dense)} | (set() if labels is None else {len(np.asarray(labels))})
    if labels is None and any(e.halves is not None for e in (*defended, *dense)):
        raise ValueError("`labels` must be given where evidence has `halves`, got None")
    if len(threats := {e.threat for e in (*defended, *dense)}) > 1:
        raise ValueError(f"all evidence must be about one threat model, got {len(threats)} of them")
    if len(images) > 1:
        raise ValueError(f"all evidence and `labels` must be about the same images, got {sorted(images)} of them")

"""What a network's accuracy under attack means: a bound, the checks behind it, and one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.evaluation.checks import Case, Check, answers
from saplab.evaluation.evidence import Evidence
from saplab.evaluation.sentence import describe
from saplab.metrics.intervals import Interval, mean_interval
from saplab.metrics.worst_case import cross_fit, margins

USUAL: Final = 8.0
"""λ that the sentence speaks of where it was run: 8/255, the usual ball for CIFAR-10."""


@dataclass(frozen=True)
class Robust:
    """An upper bound on robust accuracy.

    Args:
        strength: λ in pixel steps.
        accuracy: what all attacks together leave, with its 95 % interval over images.
        attack: label of the attack that alone leaves least.
    """

    strength: float
    accuracy: Interval
    attack: str


@dataclass(frozen=True)
class Verdict:
    """What the evidence says.

    Args:
        sentence: the result in one sentence.
        checks: every question that fits the network, also those that nothing answers yet.
        robust: for each λ, ascending, the worst case over all the evidence.
        masked: whether an attack that should be weaker takes away what one by the own gradient leaves; None where the
            evidence cannot tell.
        headline: the entry of `robust` that the sentence speaks of.
        below: robust accuracy in % that was asked for, or None.
    """

    sentence: str
    checks: tuple[Check, ...]
    robust: tuple[Robust, ...]
    masked: bool | None
    headline: Robust
    below: float | None = None

    def fails(self, below: float) -> bool:
        """Tell whether robust accuracy is not shown to reach `below` %.

        The lower end of the interval decides: attacks only ever bound robust accuracy from above, so that a network
        passes on the pessimistic end or not at all.
        """
        return 100 * self.headline.accuracy.low < below

    @property
    def exit_code(self) -> int:
        """Give 1 where `below` was asked for and not reached, else 0."""
        return int(self.below is not None and self.fails(self.below))


def verdict(
    defended: Sequence[Evidence],
    dense: Sequence[Evidence] = (),
    labels: ArrayLike | None = None,
    below: float | None = None,
    *,
    strength: float | None = None,
) -> Verdict:
    """Decide from stored predictions what a network's accuracy under attack means.

    Robust accuracy at λ is bounded by the worst attack on each image, cross-fitted (`worst_case`) over the evidence
    with `halves`. Evidence without them counts as a whole, since the least of several fresh draws is biased low; the
    best of k such candidates has the confidence 1 - 0.05 / k.

    Args:
        defended: attacks on the network in question, the same images in the same order.
        dense: attacks on the undefended network, for the length of its gradient and its own worst case.
        labels: classes (N,), needed where evidence has `halves`.
        below: robust accuracy in % that is asked for; see `Verdict.exit_code`.
        strength: λ that the sentence speaks of; the largest up to 8 by default.

    Raises:
        ValueError: no evidence, other numbers of images, no labels for `halves`, an unknown `strength`, or `below`
            outside 0 to 100.
    """
    _check(defended, dense, labels, below)
    bounds = worst_of(defended, labels)
    headline = _headline(bounds, strength)
    case = Case(defended, dense, _chance(defended, labels))
    found = answers(case)
    undefended = {bound.strength: bound.accuracy for bound in worst_of(dense, labels)} if dense else {}
    masked, sentence = describe(
        case, found, headline.strength, headline.accuracy, undefended.get(headline.strength), below
    )
    return Verdict(sentence, tuple(a.check for a in found), bounds, masked, headline, below)


def worst_of(evidence: Sequence[Evidence], labels: ArrayLike | None) -> tuple[Robust, ...]:
    """Bound robust accuracy at each λ of the evidence; see `verdict`."""
    strengths = sorted({strength for e in evidence for strength in e.strengths})
    known = [(np.asarray(e.strengths), margins(e.halves, _given(labels))) for e in evidence if e.halves is not None]
    return tuple(_bound(evidence, known, strength) for strength in strengths)


def _bound(
    evidence: Sequence[Evidence], known: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], strength: float
) -> Robust:
    single = [e for e in evidence if strength in e.strengths]
    scores = [e.at(strength) for e in single if e.halves is None]
    rows = [margin[:, strengths <= strength] for strengths, margin in known]
    if sum(row.shape[1] for row in rows):
        scores.append(cross_fit(np.concatenate(rows, axis=1)))
    least = min(scores, key=lambda score: float(score.mean()))
    strongest = min(single, key=lambda e: float(e.at(strength).mean()))
    return Robust(strength, mean_interval(least, confidence=1 - 0.05 / len(scores)), strongest.label)


def _headline(bounds: Sequence[Robust], strength: float | None) -> Robust:
    if strength is not None:
        for bound in bounds:
            if bound.strength == strength:
                return bound
        raise ValueError(f"`strength` must be one of {[bound.strength for bound in bounds]}, got {strength}")
    attacked = [bound for bound in bounds if bound.strength > 0] or list(bounds)
    return max((b for b in attacked if b.strength <= USUAL), key=lambda b: b.strength, default=attacked[0])


def _chance(evidence: Sequence[Evidence], labels: ArrayLike | None) -> float:
    """Give the accuracy of a guess among as many classes as are known of; 0 where none are."""
    classes = [e.halves.shape[-1] for e in evidence if e.halves is not None]
    if not classes and labels is not None:
        classes = [int(np.asarray(labels).max()) + 1]
    return 1 / max(classes) if classes else 0.0


def _given(labels: ArrayLike | None) -> ArrayLike:
    if labels is None:
        raise ValueError("`labels` must be given where evidence has `halves`, got None")
    return labels


def _check(
    defended: Sequence[Evidence], dense: Sequence[Evidence], labels: ArrayLike | None, below: float | None
) -> None:
    if not defended:
        raise ValueError("`defended` must hold at least one attack's evidence, got none")
    images = {e.n for e in (*defended, *dense)}
    if labels is not None:
        images.add(len(np.asarray(labels)))
    if len(images) > 1:
        raise ValueError(f"all evidence and `labels` must be about the same images, got {sorted(images)} of them")
    if below is not None and not 0 <= below <= 100:
        raise ValueError(f"`below` must be in 0..100 %, got {below}")

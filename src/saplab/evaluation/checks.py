"""The checks of a verdict: symptoms by which a masked gradient, or an attack that has not converged, shows.

Sources: Athalye, Carlini & Wagner 2018, "Obfuscated gradients give a false sense of security", section 3.1; Carlini et
al. 2019, "On evaluating adversarial robustness"; Tramèr et al. 2020, "On adaptive attacks to adversarial example
defenses".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from saplab.evaluation import comparisons, thresholds
from saplab.evaluation.comparisons import Comparison
from saplab.evaluation.evidence import Evidence
from saplab.evaluation.thresholds import Level

Outcome = Literal["passed", "failed", "unclear", "not run"]
Readings = Sequence[Comparison] | Sequence[Level]


@dataclass(frozen=True)
class Check:
    """One question about the evidence.

    Args:
        key: a short name.
        question: what was asked.
        outcome: ``passed``, ``failed``, ``unclear`` (too few images) or ``not run``.
        evidence: numbers with intervals; all intervals of one verdict hold together with 95 % confidence (Bonferroni).
        how: what to run where the answer is missing, as arguments of the command line; else "".
    """

    key: str
    question: str
    outcome: Outcome
    evidence: str
    how: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """What the checks look at.

    Args:
        evidence: attacks on the network in question.
        dense: attacks on the undefended one.
        chance: accuracy of a guess.
    """

    evidence: Sequence[Evidence]
    dense: Sequence[Evidence]
    chance: float

    @property
    def undefended(self) -> bool:
        """Tell whether the own gradient was taken without a backward rule: nothing in this network is random."""
        own = [e for e in self.evidence if e.own_gradient]
        return bool(own) and all(e.backward == "" for e in own)

    def largest(self, iterative: bool = False) -> Evidence | None:
        """Give the white-box attack with the most steps, and of these with the most samples."""
        known = [e for e in comparisons.white_box(self.evidence) if e.attack in ("pgd", "apgd") or not iterative]
        return max(known, key=lambda e: (e.steps, e.samples), default=None)


@dataclass(frozen=True)
class Question:
    """A check before it is answered.

    Args:
        key, text: as in `Check`.
        read: the numbers of which none may be on the bad side.
        how: what to run where there are none.
        stochastic: whether it asks about randomness, and so not of an undefended network.
    """

    key: str
    text: str
    read: Callable[[Case], Readings]
    how: Callable[[Case], str]
    stochastic: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """A check with the comparisons that failed, the clearest first."""

    check: Check
    failed: tuple[Comparison, ...] = ()


def answers(case: Case) -> tuple[Answer, ...]:
    """Answer every question that fits the case; the m intervals, 1 - 0.05 / m each, hold together with 95 %."""
    asked = [q for q in QUESTIONS if not (q.stochastic and case.undefended)]
    readings = [q.read(case) for q in asked]
    confidence = 1 - 0.05 / max(sum(map(len, readings)), 1)
    return tuple(_answer(q, r, case, confidence) for q, r in zip(asked, readings, strict=True))


def _answer(question: Question, readings: Readings, case: Case, confidence: float) -> Answer:
    if not readings:
        return Answer(Check(question.key, question.text, "not run", "", question.how(case)))
    found = [(reading, reading.excess(confidence)) for reading in readings]
    bad = sorted((pair for pair in found if pair[1].low > 0), key=lambda pair: -pair[1].low)
    worst, excess = bad[0] if bad else max(found, key=lambda pair: pair[1].high - pair[0].slack)
    text = worst.text(confidence)
    if bad:
        failed = tuple(reading for reading, _ in bad if isinstance(reading, Comparison))
        return Answer(Check(question.key, question.text, "failed", text), failed)
    if excess.high > worst.slack:
        how = f"more images than {excess.n}: a larger --limit"
        return Answer(Check(question.key, question.text, "unclear", text, how))
    return Answer(Check(question.key, question.text, "passed", text))


def _item(attack: str, backward: str, samples: int, steps: int) -> str:
    """Write an attack as the command line takes it: ``--attack pgd:backward=identity,samples=10,steps=20``."""
    settings = [f"backward={backward}"] if backward else []
    settings += [f"samples={samples}"] if samples > 1 else []
    settings += [f"steps={steps}"] if attack in ("pgd", "apgd") else []
    return f"--attack {attack}" + (f":{','.join(settings)}" if settings else "")


def _by_identity(case: Case) -> str:
    known = case.largest()
    if known is None or known.backward == "identity":
        return "--attack adaptive"
    return _item(known.attack, "identity", known.samples, known.steps)


def _more_samples(case: Case) -> str:
    known = case.largest()
    return _item(known.attack, known.backward, 10 * known.samples, known.steps) if known else "--attack adaptive"


def _more_steps(case: Case) -> str:
    known = case.largest(iterative=True)
    return _item(known.attack, known.backward, known.samples, 5 * known.steps) if known else "--attack adaptive"


def _to_the_end(case: Case) -> str:
    known = case.largest(iterative=True)
    attack = _item(known.attack, known.backward, known.samples, known.steps) if known else "--attack adaptive"
    return f"{attack} --lambda {thresholds.UNBOUNDED:g}"


def _two_samples(case: Case) -> str:
    known = case.largest()
    return _item(known.attack, known.backward, max(known.samples, 10), known.steps) if known else "--attack paper"


QUESTIONS: Final = (
    Question(
        "transfer", "Does a transfer attack beat the white-box one?",
        lambda case: comparisons.transfer(case.evidence), lambda case: "--attack paper",
    ),
    Question(
        "one-step", "Does a one-step attack beat an iterative one?",
        lambda case: comparisons.one_step(case.evidence), lambda case: "--attack paper",
    ),
    Question(
        "identity", "Does identity backward beat the defence's own gradient?",
        lambda case: comparisons.identity(case.evidence), _by_identity, stochastic=True,
    ),
    Question(
        "black-box", "Does a black-box attack beat the white-box one?",
        lambda case: comparisons.black_box(case.evidence), lambda case: "--attack adaptive",
    ),
    Question(
        "noise", "Does random noise beat the white-box attack?",
        lambda case: comparisons.noise(case.evidence), lambda case: "--attack paper",
    ),
    Question(
        "samples", "Do more Monte Carlo samples still help?",
        lambda case: comparisons.samples(case.evidence), _more_samples, stochastic=True,
    ),
    Question(
        "steps", "Do more steps still help?", lambda case: comparisons.steps(case.evidence), _more_steps,
    ),
    Question(
        "rises", "Does accuracy rise with λ under an iterative attack?",
        lambda case: comparisons.rises(case.evidence), lambda case: "--attack adaptive --lambda 1,2,4,8",
    ),
    Question(
        "unbounded", "Does accuracy stay above chance in an unbounded ball?",
        lambda case: thresholds.unbounded(case.evidence, case.chance), _to_the_end,
    ),
    Question(
        "cosine", "Do half the samples give another gradient than the other half?",
        lambda case: thresholds.half_cosines(case.evidence), _two_samples, stochastic=True,
    ),
    Question(
        "norm", "Does the gradient vanish beside the undefended network's?",
        lambda case: thresholds.gradient_norms(case.evidence, case.dense),
        lambda case: "--baseline (the undefended network beside the defended one)", stochastic=True,
    ),
)  # fmt: skip

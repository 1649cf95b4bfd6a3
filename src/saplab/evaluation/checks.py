"""The checks of a verdict: symptoms by which a masked gradient, or an attack that has not converged, shows.

Sources: Athalye, Carlini & Wagner 2018, "Obfuscated gradients give a false sense of security", section 3.1; Carlini et
al. 2019, "On evaluating adversarial robustness"; Tramèr et al. 2020, "On adaptive attacks to adversarial example
defenses".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from saplab.evaluation import advice, comparisons, thresholds
from saplab.evaluation.advice import Advice
from saplab.evaluation.comparisons import Comparison
from saplab.evaluation.evidence import Case
from saplab.evaluation.thresholds import Level
from saplab.metrics import Interval

Outcome = Literal["passed", "failed", "unclear", "not run"]
Readings = Sequence[Comparison] | Sequence[Level]

EXPOSING: Final = (
    "transfer",
    "identity",
    "relaxed",
    "black-box",
    "one-step",
    "noise",
)  # failed, they show a masked gradient
DECISIVE: Final = ("transfer", "identity", "black-box")  # one must have passed before a gradient counts as not masked
SYMPTOMS: Final = ("rises", "unbounded", "norm")  # failed, they say that the attack fails somewhere, but not why
UNFINISHED: Final = ("steps", "samples")  # failed, they say that the attack along the own gradient can do better
BY_OTHERS: Final = ("transfer", "black-box", "noise")  # they show as much of such an attack without a masked gradient
_ROUNDING: Final = 1e-9
LEAST: Final = 0.02  # of all images, below which no difference counts
_TIMES: Final = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)  # as many images as there were, tried for a clear answer
PART: Final = 0.2  # of what the first attack leaves: a difference that counts, whatever its points


@dataclass(frozen=True)
class Check:
    """One property that sound evidence has.

    Attributes:
        key: a short name, by which docs/verdict.md speaks of it.
        statement: the property; it holds where the outcome is ``passed``.
        outcome: ``passed``, ``failed``, ``unclear`` (too few images) or ``not run``.
        evidence: numbers with intervals; all intervals of one verdict hold together with 95 % confidence (Bonferroni).
        how: what to run where the answer is missing.
    """

    key: str
    statement: str
    outcome: Outcome
    evidence: str
    how: Advice | None = None

    @property
    def told(self) -> bool:
        """Return whether there is evidence at all."""
        return self.outcome != "not run"


@dataclass(frozen=True)
class Question:
    """A check before it is answered: does its statement hold?"""

    key: str
    statement: str  # with `{symbol}` for what the radius is called
    read: Callable[[Case], Readings]  # the numbers of which none may be bad
    how: Callable[[Case], Advice]  # what to run where there are none
    of_rules: bool = False  # asked only of networks that have backward rules
    of_draws: bool = False  # asked only of networks whose passes differ
    why_not: Callable[[Case], str] = lambda case: ""  # why it cannot be answered at all; "" where it can

    def fits(self, case: Case) -> bool:
        """Return whether the question makes sense for the case."""
        return not ((self.of_rules and case.plain) or (self.of_draws and case.without_draws))


@dataclass(frozen=True, eq=False)
class Answer:
    """A check with the comparisons that failed, the clearest first."""

    check: Check
    failed: tuple[Comparison, ...] = ()


def answers(case: Case) -> tuple[Answer, ...]:
    """Answer every question that fits the case; the m intervals, 1 - 0.05 / m each, hold together with 95 %."""
    asked = [q for q in QUESTIONS if q.fits(case)]
    readings = [q.read(case) for q in asked]
    confidence = 1 - 0.05 / max(sum(map(len, readings)), 1)
    return tuple(_answer(q, r, case, confidence) for q, r in zip(asked, readings, strict=True))


def _answer(question: Question, readings: Readings, case: Case, confidence: float) -> Answer:
    statement = question.statement.format(symbol=case.threat.symbol)
    if not readings and (reason := question.why_not(case)):
        return Answer(Check(question.key, statement, "not run", f"it does not apply: {reason}"))
    if not readings:
        return Answer(Check(question.key, statement, "not run", "", question.how(case)))
    found = [(reading, reading.excess(confidence)) for reading in readings]
    bad = sorted((pair for pair in found if _is_bad(*pair)), key=lambda pair: -pair[1].low)
    worst, _ = bad[0] if bad else max(found, key=lambda pair: pair[1].high)
    text = worst.text(confidence)
    unclear = [] if bad else [reading for reading, excess in found if excess.high > reading.slack]
    if unclear:
        images, times = case.evidence[0].n, [_times_that_decide(reading, confidence) for reading in unclear]
        more = Advice(more_than=images, enough=images * max(times) if all(times) else 0)
        return Answer(Check(question.key, statement, "unclear", text, more))
    failed = tuple(reading for reading, _ in bad if isinstance(reading, Comparison))
    return Answer(Check(question.key, statement, "failed" if bad else "passed", text), failed)


def _times_that_decide(reading: Comparison | Level, confidence: float) -> int:
    """Return how many times as many images, all like these, would decide; 0 where a hundred times would not."""
    for times in _TIMES:
        excess = reading.excess(confidence, times)
        if excess.high <= reading.slack or _is_bad(reading, excess):
            return times
    return 0


def _is_bad(reading: Comparison | Level, excess: Interval) -> bool:
    """Return whether a number is bad beyond chance, and by so much that it counts.

    Of two attacks the second must be stronger by the points up to which a comparison may pass, or by a fifth of what
    the first leaves, but by two points at least: among enough images any two attacks differ.
    """
    if excess.low <= 0 or isinstance(reading, Level):
        return excess.low > 0
    share = max(PART * float(reading.first.scores.mean()), LEAST)
    return excess.estimate >= min(reading.slack, share) - _ROUNDING


def is_masked(case: Case, found: Sequence[Answer], eps: float) -> bool | None:
    """Decide from the answers to the checks whether the gradient is masked; None where they cannot tell.

    Where others alone get a little further than attacks along the own gradient, that shows nothing as long as these can
    do better: by more steps or samples, or on what is judged, the mean of passes, whose single losses they climb. Where
    the number of passes averaged decides what is left at `eps`, the gradient is noise for the most part, and who finds
    no more than attacks along it clears nothing.
    """
    outcomes = {answer.check.key: answer.check.outcome for answer in found}
    exposing = [answer for answer in found if answer.check.key in EXPOSING and answer.check.outcome == "failed"]
    little = not case.on_the_mean and all(one.share > 1 - PART for answer in exposing for one in answer.failed)
    masked = _decided(outcomes, little)
    return None if masked is False and noisy(case, eps) else masked


def noisy(case: Case, eps: float) -> Comparison | None:
    """Return the comparison that shows that what is left at `eps` depends on how many passes a gradient averages.

    That is, an attack that averages over its steps too surely takes more than 5 points from the strongest of the others
    by the same rule, and more than a fifth of what that leaves. None where no such was run.
    """
    shown = [one for one in comparisons.averaging(case) if one.second.eps == eps and one.share <= 1 - PART
             and one.excess(0.95).low > comparisons.MARGIN]  # fmt: skip
    return min(shown, key=lambda one: one.share, default=None)


def possible_answers(outcomes: Mapping[str, Outcome]) -> set[bool | None]:
    """Return what the outcomes of all checks allow to say of a masked gradient, by whatever numbers they came about.

    A gradient that they clear may still be called undecided, where one step attacked or an attack refers to another.
    """
    found = {_decided(outcomes, little) for little in (True, False)}
    return found | {None} if False in found else found


def _decided(outcomes: Mapping[str, Outcome], little: bool) -> bool | None:
    """Decide by the outcomes; `little`: all attacks that went further did so by little, where there was room for it."""
    exposing = [key for key in EXPOSING if outcomes.get(key) == "failed"]
    unfinished = little or any(outcomes.get(key) == "failed" for key in UNFINISHED)
    if exposing and not (unfinished and set(exposing) <= set(BY_OTHERS)):
        return True
    blind = outcomes.get("flat") == "failed"
    if blind and outcomes.get("loss") == "failed":
        return True  # what a flat cross-entropy hides, another loss shows
    if blind and outcomes.get("relaxed") != "passed":
        return None  # it sees nothing, and nothing that sees was run
    if exposing:
        return None
    decisive = [outcomes[key] for key in DECISIVE if outcomes.get(key, "not run") != "not run"]
    symptom = any(outcomes.get(key) == "failed" for key in SYMPTOMS)
    return False if decisive and all(outcome == "passed" for outcome in decisive) and not symptom else None


QUESTIONS: Final = (
    Question("transfer", "The white-box attack is as strong as any made on another network",
             comparisons.transfer, lambda _: advice.PAPER),
    Question("one-step", "Many steps are as strong as one", comparisons.one_step, lambda _: advice.PAPER),
    Question("identity", "The defence's own gradient is as strong as identity backward (BPDA)",
             comparisons.identity, advice.identity, of_rules=True),
    Question("relaxed", "The plain gradient is as strong as relaxed backward, with smooth stand-ins for flat functions",
             comparisons.relaxed, advice.relaxed),
    Question("flat", "There is a gradient where images are still right", thresholds.flat, advice.relaxed),
    Question("loss", "Cross-entropy is as strong as other losses", comparisons.loss, advice.other_loss),
    Question("black-box", "The white-box attack is as strong as a black box",
             comparisons.black_box, advice.black_box),
    Question("noise", "The white-box attack is as strong as random noise", comparisons.noise, lambda _: advice.PAPER),
    Question("samples", "The attack averages enough Monte Carlo samples",
             comparisons.samples, advice.more_samples, of_draws=True),
    Question("steps", "The attack takes enough steps", comparisons.steps, advice.more_steps),
    Question("rises", "Accuracy never rises with {symbol} under an iterative attack",
             comparisons.rises, advice.radii),
    Question("unbounded", "In an unbounded ball, accuracy falls to chance",
             thresholds.unbounded, advice.unbounded, why_not=advice.why_never_unbounded),
    Question("cosine", "Both halves of the samples give about the same gradient",
             thresholds.half_cosines, advice.two_samples, of_draws=True),
    Question("norm", "The gradient is at least a tenth as long as the undefended network's",
             thresholds.gradient_norms, advice.norms, of_rules=True),
)  # fmt: skip

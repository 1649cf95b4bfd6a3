"""The sentence of a verdict."""

from collections.abc import Mapping, Sequence
from typing import Final

from saplab.evaluation.checks import Answer, Case
from saplab.evaluation.comparisons import Comparison
from saplab.evaluation.evidence import Evidence
from saplab.metrics.intervals import Interval

EXPOSING: Final = ("transfer", "identity", "black-box", "one-step", "noise")
"""Checks that show a masked gradient where they fail: an attack that knows less takes more."""

DECISIVE: Final = ("transfer", "identity", "black-box")
"""Checks of which one must have passed before a gradient counts as not masked."""

SYMPTOMS: Final = ("rises", "unbounded")
"""Checks whose failure says that the attack fails somewhere, but not why."""

_ATTACKS: Final = {"noise": "random noise", "fgsm": "FGSM", "iterative": "the iterative attack", "pgd": "PGD",
                   "apgd": "APGD", "square": "the Square attack"}  # fmt: skip


def describe(
    case: Case, answers: Sequence[Answer], strength: float, bound: Interval, dense: Interval | None,
    below: float | None,
) -> tuple[bool | None, str]:  # fmt: skip
    """Say whether the gradient is masked (None: cannot be told), and the result in one sentence.

    Args:
        case: the evidence.
        answers: to every question that fits it.
        strength: λ that the sentence is about.
        bound: robust accuracy there.
        dense: that of the undefended network, where it is known.
        below: accuracy in % that was asked for.
    """
    outcomes = {answer.check.key: answer.check.outcome for answer in answers}
    failed = [c for answer in answers if answer.check.key in EXPOSING for c in answer.failed]
    masked = is_masked(outcomes)
    if strength == 0:
        return masked, f"Accuracy without an attack is {bound.percent()}; no λ > 0 was run: --lambda 1,2,4,8."
    head = f"Robust accuracy at λ = {strength:g} is at most {bound.percent()}"
    if masked:
        tail = _masked(failed, strength)
    elif masked is None:
        tail = _undecided(case, outcomes)
    else:
        tail = _clear(outcomes, dense)
    return masked, f"{head}{tail}{_short_of(bound, below)}."


def is_masked(outcomes: Mapping[str, str]) -> bool | None:
    """Decide from the outcomes of the checks."""
    if any(outcomes.get(key) == "failed" for key in EXPOSING):
        return True
    decisive = [outcomes[key] for key in DECISIVE if outcomes.get(key, "not run") != "not run"]
    symptom = any(outcomes.get(key) == "failed" for key in SYMPTOMS)
    return False if decisive and all(outcome == "passed" for outcome in decisive) and not symptom else None


def _masked(failed: Sequence[Comparison], strength: float) -> str:
    """Name what the own gradient seemed to leave, at the λ of the sentence unless twice as much shows at another."""
    shown = max(failed, key=_gap)
    here = [c for c in failed if c.first_strength == c.second_strength == strength and _gap(c) >= _gap(shown) / 2]
    shown = max(here, key=_gap, default=shown)
    share = f"{100 * shown.expected.mean():.1f} % under {name_of(shown.first)}"
    if here:
        return f"; the {share} is a masked gradient"
    rest = f"{name_of(shown.second)} leaves {100 * shown.found.mean():.1f} %"
    return f"; at λ = {shown.second_strength:g} the {share} is a masked gradient: {rest}"


def _gap(comparison: Comparison) -> float:
    return float(comparison.expected.mean() - comparison.found.mean())


def _clear(outcomes: Mapping[str, str], dense: Interval | None) -> str:
    told = [f"; {sum(o == 'passed' for o in outcomes.values())} checks passed, none shows a masked gradient"]
    unfinished = [words for key, words in (("samples", "more Monte Carlo samples"), ("steps", "more steps"))
                  if outcomes.get(key) == "failed"]  # fmt: skip
    if unfinished:
        told.append(f", but {' and '.join(unfinished)} still help: it is lower yet")
    if dense is not None:
        told.append(f"; the undefended network: {dense.percent()}")
    return "".join(told)


def _undecided(case: Case, outcomes: Mapping[str, str]) -> str:
    attacks = list(dict.fromkeys(name_of(e) for e in case.evidence))
    if all(e.attack == "noise" for e in case.evidence):
        return "; random noise looks for nothing: run --attack adaptive"
    if outcomes.get("rises") == "failed":
        return "; accuracy rises with λ, so the attack fails somewhere: run --attack adaptive"
    if outcomes.get("unbounded") == "failed":
        return "; an unbounded attack does not reach chance, so it fails somewhere: run --attack adaptive"
    if any(outcomes.get(key) == "unclear" for key in DECISIVE):
        return f"; {case.evidence[0].n} images are too few to tell whether a gradient is masked"
    if case.undefended:
        return "" if any(e.steps > 1 for e in case.evidence) else "; one step bounds it loosely: run --attack adaptive"
    known = f"{attacks[0]} alone" if len(attacks) == 1 else "what was run"
    return f"; {known} cannot tell robustness from a masked gradient: run --attack adaptive"


def _short_of(bound: Interval, below: float | None) -> str:
    if below is None or 100 * bound.low >= below:
        return ""
    return f"; {below:g} % was asked for, and the lower end does not reach it"


def name_of(evidence: Evidence) -> str:
    """Name an attack by what it knows: "the paper's adversary" is FGSM or the iterative attack by the mask."""
    attack = _ATTACKS[evidence.attack]
    if evidence.adversary == "transfer":
        return f"{attack} made on another network"
    if evidence.adversary == "own" and evidence.backward == "mask" and evidence.attack in ("fgsm", "iterative"):
        return "the paper's adversary"
    return f"{attack} with {evidence.backward} backward" if evidence.own_gradient and evidence.backward else attack

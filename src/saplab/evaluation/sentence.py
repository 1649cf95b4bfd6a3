"""The two sentences of a verdict: what was found, and what it means."""

from collections.abc import Mapping, Sequence
from typing import Final

from saplab.attacks import FGSM, Iterative
from saplab.evaluation.checks import BY_OTHERS, DECISIVE, EXPOSING, UNFINISHED, Answer, noisy
from saplab.evaluation.comparisons import Comparison
from saplab.evaluation.evidence import Case, Evidence
from saplab.metrics import Interval
from saplab.system.words import counted

# Where a stronger attack leaves at most these shares of what the own gradient does, all of it, or most, was masked.
_ALL: Final = 0.1
_MOST: Final = 0.5

_CLEARING: Final = {  # who finds no more, by the checks of `DECISIVE`
    "transfer": "attacks made on another network",
    "identity": "attacks that pass the defence straight through",
    "black-box": "a black box",
}


def describe(
    case: Case, answers: Sequence[Answer], masked: bool | None, eps: float, bound: Interval, dense: Interval | None,
    alone: float | None = None,
) -> str:  # fmt: skip
    """Return the result in one sentence about the radius `eps`.

    Args:
        answers: to every question that fits the case.
        masked: whether the gradient is masked; None where the answers cannot tell.
        bound, dense: robust accuracy at `eps`, and that of the undefended network, where it is known.
        alone: what the strongest attack alone leaves where all passes judge at once, if that is less than `bound`.
    """
    if eps == 0:
        none = "" if _attacked(case) else f"; no {case.threat.symbol} > 0 was run"
        return f"Accuracy without an attack is {_judged(bound, alone)}{none}."
    outcomes = {answer.check.key: answer.check.outcome for answer in answers}
    if masked:
        tail = _masked(_shown(answers, eps), eps)
    elif bound.estimate == 0:
        tail = ": the attacks break every image"
    else:
        tail = _undecided(case, outcomes, eps) if masked is None else _clear(outcomes, dense)
    return f"Robust accuracy at {case.threat.text(eps)}{case.threat.setting} is at most {_judged(bound, alone)}{tail}."


def _judged(bound: Interval, alone: float | None) -> str:
    """Return the bound, and why it lies above an attack's own number: half the passes only choose the worst case."""
    if alone is None:
        return bound.percent()
    told = f"by all at once, one attack alone leaves {100 * alone:.1f} %"
    return f"{bound.percent()}, judged by half of the passes at a time ({told})"


def _attacked(case: Case) -> bool:
    return any(e.eps[-1] > 0 for e in case.evidence)


def explain(case: Case, answers: Sequence[Answer], masked: bool | None, eps: float, bound: Interval) -> str:
    """Return what the result means, for a reader who has read nothing; arguments as in `describe`."""
    if eps == 0:
        return "" if _attacked(case) else "No attack was run, so this says nothing of robustness."
    network = "network" if case.plain else "defence"
    if masked:
        share = _shown(answers, eps).share
        if share > _ALL:
            part = "a part" if share > _MOST else "most"
            return (
                f"That is, the {network} hides its gradient: some attacks get further without it, so {part} of the"
                " robustness that it seems to have is not real. What is left is an upper bound."
            )
        return (
            f"That is, the {network} hides its gradient: attacks that do not rely on it get through, so the robustness"
            " that it seems to have is not real."
        )
    if bound.estimate == 0:
        return f"At this radius the {network} has no robustness, real or masked."
    if masked is False:
        passed = {answer.check.key for answer in answers if answer.check.outcome == "passed"}
        told = [words for key, words in _CLEARING.items() if key in passed]
        return (
            f"{_listed(told)} no more than the attacks along the network's own gradient, so nothing points to a masked"
            " gradient. The accuracy is an upper bound: an attack that was not run may still find more."
        )
    return (
        "The accuracy is an upper bound. Whether the robustness is real or a masked gradient cannot be told from what"
        " was run."
    )


def _listed(parts: Sequence[str]) -> str:
    """Return a sentence's beginning: who finds, or find, no more."""
    text = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return f"{text[0].upper()}{text[1:]} {'finds' if list(parts) == ['a black box'] else 'find'}"


def _shown(answers: Sequence[Answer], eps: float) -> Comparison:
    """Return the comparison to tell of: at `eps`, unless the gap elsewhere is more than twice as wide."""
    failed = [c for answer in answers if answer.check.key in EXPOSING for c in answer.failed]
    failed = failed or [c for answer in answers if answer.check.key == "loss" for c in answer.failed]
    widest = max(failed, key=_telling)
    here = [c for c in failed if c.first.eps == c.second.eps == eps and _gap(c) >= _gap(widest) / 2]
    return max(here, key=_telling, default=widest)


def _masked(shown: Comparison, eps: float) -> str:
    """Name what the own gradient seemed to leave, and how much of it is due to a masked gradient."""
    threat = shown.second.evidence.threat
    share = f"{100 * shown.first.scores.mean():.1f} % under {name_of(shown.first.evidence)}"
    due = f"{100 * _gap(shown):.1f} points of the {share} are" if shown.share > _ALL else f"the {share} is"
    if shown.first.eps == shown.second.eps == eps:
        return f"; {due} due to a masked gradient"
    rest = f"{name_of(shown.second.evidence)} leaves {100 * shown.second.scores.mean():.1f} %"
    rest += "" if shown.first.eps == shown.second.eps else f" at {threat.text(shown.second.eps)}"
    return f"; at {threat.text(shown.first.eps)}, {due} due to a masked gradient: {rest}"


def _telling(comparison: Comparison) -> tuple[float, float]:
    """Return what makes one comparison tell more than another: a wider gap, and of gaps as wide less that is left."""
    return round(_gap(comparison), 6), -comparison.share


def _gap(comparison: Comparison) -> float:
    return float(comparison.first.scores.mean() - comparison.second.scores.mean())


def _clear(outcomes: Mapping[str, str], dense: Interval | None) -> str:
    passed = sum(outcome == "passed" for outcome in outcomes.values())
    told = f"; {counted(passed, 'check')} passed, none shows a masked gradient"
    unfinished = [words for key, words in (("samples", "more Monte Carlo samples"), ("steps", "more steps"))
                  if outcomes.get(key) == "failed"]  # fmt: skip
    if unfinished:
        told += f", but {' and '.join(unfinished)} still help: it may be lower yet"
    return told if dense is None else f"{told}; the undefended network: {dense.percent()}"


def _undecided(case: Case, outcomes: Mapping[str, str], eps: float) -> str:
    attacks = list(dict.fromkeys(map(name_of, case.evidence)))
    if all(e.noise for e in case.evidence):
        return "; random noise searches for nothing, so an attack is needed to tell more"
    if outcomes.get("flat") == "failed":
        seen = any(e.black_box for e in case.evidence)
        return (
            f"; the gradient is flat, so the attack cannot see: relaxed backward{'' if seen else ' or a black box'} is"
            " needed to tell"
        )
    if outcomes.get("rises") == "failed":
        rises = f"; accuracy rises with {case.threat.symbol}"
        return f"{rises}, so the attack fails somewhere: stronger attacks are needed to tell"
    if outcomes.get("unbounded") == "failed":
        return "; an unbounded attack does not reach chance, so it fails somewhere: stronger attacks are needed to tell"
    if outcomes.get("norm") == "failed":
        return "; the gradient is far shorter than the undefended network's: stronger attacks are needed to tell"
    if shown := noisy(case, eps):
        few, many = (f"{name_of(one.evidence)} ×{one.evidence.samples}" for one in (shown.first, shown.second))
        left, less = (f"{100 * one.scores.mean():.1f} %" for one in (shown.first, shown.second))
        return (
            f"; what is left depends on how many passes a gradient averages: {few} leaves {left}, {many} with momentum"
            f" {less}, so more samples are needed to tell"
        )
    if any(outcomes.get(key) == "failed" for key in UNFINISHED):
        return "; the attack has not converged: more steps or samples are needed to tell"
    if any(outcomes.get(key) == "failed" for key in BY_OTHERS):
        return (
            "; others get a little further than the attacks along the own gradient, which climb the mean loss of single"
            " passes: one on the mean itself (average=probabilities) is needed to tell"
        )
    if any(outcomes.get(key) == "unclear" for key in DECISIVE):
        few = counted(case.evidence[0].n, "image")
        return f"; {few} {'is' if case.evidence[0].n == 1 else 'are'} too few to tell whether a gradient is masked"
    if case.plain:
        return "" if any(e.iterative for e in case.evidence) else "; one step bounds it loosely: more steps are needed"
    known = f"{attacks[0]} alone" if len(attacks) == 1 else "what was run"
    return f"; {known} cannot tell robustness from a masked gradient: more attacks are needed"


def name_of(evidence: Evidence) -> str:
    """Name an attack by what it knows: "the paper's adversary" is FGSM or the iterative attack by the mask."""
    attack = evidence.attack
    if evidence.backward == "mask" and isinstance(attack, (FGSM, Iterative)):
        return "the paper's adversary"
    title = "the iterative attack" if isinstance(attack, Iterative) else attack.title
    how = f" with {evidence.backward} backward" if evidence.backward else ""
    return f"{title} made on another network" if evidence.adversary == "transfer" else f"{title}{how}"

"""The two sentences of a verdict: what was found, and what it means."""

from collections.abc import Mapping, Sequence

from saplab.attacks import FGSM, Iterative
from saplab.evaluation.checks import DECISIVE, EXPOSING, Answer
from saplab.evaluation.comparisons import Comparison
from saplab.evaluation.evidence import Case, Evidence
from saplab.metrics import Interval


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
        return f"Accuracy without an attack is {_judged(bound, alone)}; no {case.threat.symbol} > 0 was run."
    outcomes = {answer.check.key: answer.check.outcome for answer in answers}
    if masked:
        exposing = [c for answer in answers if answer.check.key in EXPOSING for c in answer.failed]
        exposing = exposing or [c for answer in answers if answer.check.key == "loss" for c in answer.failed]
        tail = _masked(exposing, eps)
    elif bound.estimate == 0:
        tail = ": the attacks break every image"
    else:
        tail = _undecided(case, outcomes) if masked is None else _clear(outcomes, dense)
    return f"Robust accuracy at {case.threat.text(eps)}{case.threat.setting} is at most {_judged(bound, alone)}{tail}."


def _judged(bound: Interval, alone: float | None) -> str:
    """Return the bound, and why it lies above an attack's own number: half the passes only choose the worst case."""
    if alone is None:
        return bound.percent()
    told = f"by all at once, one attack alone leaves {100 * alone:.1f} %"
    return f"{bound.percent()}, judged by half of the passes at a time ({told})"


def explain(case: Case, masked: bool | None, eps: float, bound: Interval) -> str:
    """Return what the result means, for a reader who has read nothing; arguments as in `describe`."""
    if eps == 0:
        return "No attack was run, so this says nothing of robustness."
    network = "network" if case.plain else "defence"
    if masked:
        return (
            f"That is, the {network} hides its gradient: attacks that do not rely on it get through, so the robustness"
            " that it seems to have is not real."
        )
    if bound.estimate == 0:
        return f"At this radius the {network} has no robustness, real or masked."
    if masked is False:
        return (
            "Attacks that do not rely on the gradient find no more than those that do, so nothing points to a masked"
            " gradient. The accuracy is an upper bound: an attack that was not run may still find more."
        )
    return (
        "The accuracy is an upper bound. Whether the robustness is real or a masked gradient cannot be told from what"
        " was run."
    )


def _masked(failed: Sequence[Comparison], eps: float) -> str:
    """Name what the own gradient seemed to leave: at `eps`, unless the gap elsewhere is more than twice as wide."""
    shown = max(failed, key=_gap)
    here = [c for c in failed if c.first.eps == c.second.eps == eps and _gap(c) >= _gap(shown) / 2]
    shown = max(here, key=_gap, default=shown)
    share = f"{100 * shown.first.scores.mean():.1f} % under {name_of(shown.first.evidence)}"
    if here:
        return f"; the {share} is due to a masked gradient"
    rest = f"{name_of(shown.second.evidence)} leaves {100 * shown.second.scores.mean():.1f} %"
    threat = shown.second.evidence.threat
    return f"; at {threat.text(shown.second.eps)} the {share} is due to a masked gradient: {rest}"


def _gap(comparison: Comparison) -> float:
    return float(comparison.first.scores.mean() - comparison.second.scores.mean())


def _clear(outcomes: Mapping[str, str], dense: Interval | None) -> str:
    told = f"; {sum(o == 'passed' for o in outcomes.values())} checks passed, none shows a masked gradient"
    unfinished = [words for key, words in (("samples", "more Monte Carlo samples"), ("steps", "more steps"),
                                           ("loss", "another loss"))
                  if outcomes.get(key) == "failed"]  # fmt: skip
    if unfinished:
        told += f", but {' and '.join(unfinished)} still help: it is lower yet"
    return told if dense is None else f"{told}; the undefended network: {dense.percent()}"


def _undecided(case: Case, outcomes: Mapping[str, str]) -> str:
    attacks = list(dict.fromkeys(map(name_of, case.evidence)))
    if all(e.noise for e in case.evidence):
        return "; random noise searches for nothing, so an attack is needed to tell more"
    if outcomes.get("flat") == "failed":
        return "; the gradient is flat, so the attack cannot see: relaxed backward or a black box is needed to tell"
    if outcomes.get("rises") == "failed":
        rises = f"; accuracy rises with {case.threat.symbol}"
        return f"{rises}, so the attack fails somewhere: stronger attacks are needed to tell"
    if outcomes.get("unbounded") == "failed":
        return "; an unbounded attack does not reach chance, so it fails somewhere: stronger attacks are needed to tell"
    if any(outcomes.get(key) == "unclear" for key in DECISIVE):
        return f"; {case.evidence[0].n} images are too few to tell whether a gradient is masked"
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

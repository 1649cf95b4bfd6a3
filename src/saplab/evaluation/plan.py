"""From a request to its curves: one curve is one defender under one attack, cut into ranges of examples."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

from saplab.attacks import Attacker, GradientAttack
from saplab.evaluation.paper_numbers import paper_accuracies
from saplab.runs import Cell, Curve, ImageCell, cut

C = TypeVar("C", bound=Cell)


def curve(label: str, whole: ImageCell, size: int, *, claim: str = "", seeds: int = 1, figure: str = "") -> Curve:
    """Cut the cell over all examples into cells of `size` examples, for each seed, and name them as one curve."""
    cells, *repeats = cut(whole, size, seeds)
    return Curve(label, cells, claim, paper_accuracies(whole), tuple(repeats), figure)


def plan(
    whole: ImageCell, attackers: Sequence[Attacker], size: int, *, baseline: bool, seeds: int
) -> tuple[Curve, ...]:
    """Plan a network's evaluation: the undefended one's own curves, then the network's, then those across.

    Args:
        whole: a cell over all examples, of the defended network; its adversary and attack are replaced.
        size: examples of one cell.
        baseline: whether the undefended network is evaluated too: under its own attacks and, beside several attackers,
            under the images made for the defended one, which cost it one more pass and fill the game's matrix.
    """
    network = whole.defender
    dense = network.undefended
    own = [attacked(whole, attacker) for attacker in attackers]
    if not (network.defenses and baseline):
        return _curves(own, size, seeds)
    plainly = whole.passes if dense.random else 1
    across = [replace(cell, defender=dense, passes=plainly) for cell in own]
    alone = [cell for cell in across if cell.adversary == dense]
    plain = (attacked(replace(whole, defender=dense, passes=plainly), attacker) for attacker in attackers)
    alone += [cell for cell in plain if not any(_same_attack(cell, other) for other in alone)]
    return _curves([*alone, *own, *(across if len(own) > 1 else [])], size, seeds)


def attacked(whole: C, attacker: Attacker) -> C:
    """Return the cell of its defender under an attacker, whose settings are as they are for that defender."""
    network, reference = whole.defender, whole.defender.reference
    one = attacker.against(network, reference)
    source = reference if one.whose == "dense" and reference is not None else network
    source = network.undefended if one.attack.knowledge == "nothing" else source
    return replace(whole, adversary=source, attack=one.attack, eps=tuple(dict.fromkeys(one.eps or whole.eps)))


def _same_attack(a: ImageCell, b: ImageCell) -> bool:
    """Compare what two cells are attacked with, but for whether lost examples are left alone."""
    first, second = (cell.attack.plain(True, True, own=False) for cell in (a, b))
    return (first, a.eps, a.adversary) == (second, b.eps, b.adversary)


def _curves(cells: Sequence[ImageCell], size: int, seeds: int) -> tuple[Curve, ...]:
    found = []
    for cell in {cell.digest: cell for cell in cells}.values():
        repeats = seeds if cell.defender.random or cell.adversary.random else 1
        found.append(curve(label_of(cell, cells[0].eps), cell, size, claim=claim_of(cell), seeds=repeats))
    return tuple(found)


def label_of(cell: ImageCell, common: tuple[float, ...]) -> str:
    """Name a cell's curve: its defender, and what attacks it; radii where they are not the `common` ones."""
    transfer = "transfer " if cell.transferred else ""
    source = f" from {cell.adversary.label}" if cell.across else ""
    threat = cell.threat
    strengths = ", ".join(f"{threat.shown(value):g}" for value in cell.eps)
    at = "" if cell.eps == common else f" at {threat.symbol}={strengths}"
    return f"{cell.defender.label}: {transfer}{attack_text(cell)}{source}{at}"


def attack_text(cell: ImageCell) -> str:
    """Name a cell's attack for people, with the backward rule where it makes a difference."""
    return cell.attack.describe(cell.adversary.has_rules)


def claim_of(cell: ImageCell) -> str:
    """Return in one sentence what a cell's attacker knows or does."""
    attack = cell.attack
    if attack.claim:
        return attack.claim
    if attack.knowledge == "nothing":
        what = "Random signs" if cell.threat.norm == "linf" else "A random direction"
        return f"{what}, as large as the attack's: what any perturbation of this size does."
    if attack.knowledge == "scores":
        return "A black box: the attacker sees averaged probabilities only, no gradient."
    if isinstance(attack, GradientAttack) and not attack.gradient.redraw:
        return "The attacker draws once for a whole attack, whose images meet other draws."
    if cell.transferred and cell.adversary.grain == "frozen":
        return "The images are made on the network with one draw of its own, always the same, and transferred."
    if not cell.defender.defenses:
        if cell.across:
            return "The network as trained, on images made for the defended one."
        return (
            "The attacker averages over the network's own draws." if cell.defender.random else "The network as trained."
        )
    if cell.transferred:
        return "The images are made on the undefended network and transferred."
    rule = attack.gradient.backward if isinstance(attack, GradientAttack) else "mask"
    if cell.adversary.has_rules or rule == "relaxed":
        return _RULES[rule]
    return "The attacker knows the defence" + (", and averages over its draws." if cell.adversary.random else ".")


_RULES: Final = {
    "mask": "The attacker knows the defence and follows its gradient with the draws held constant, as the paper does.",
    "probability": "The attacker's gradient goes through the probabilities of being kept as well.",
    "identity": "The attacker's gradient passes the defence as if it were not there (BPDA).",
    "relaxed": "The attacker's gradient takes smooth functions for those that saturate or step.",
}

"""From a request of games to its curves: one curve is one agent under one attack, cut by radius and seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saplab.attacks import FGSM, Attacker, GradientAttack
from saplab.defenses.prediction import BATCH
from saplab.evaluation.paper_numbers import paper_changes
from saplab.evaluation.plan import attacked
from saplab.runs import Curve, GameCell, Network, cut_each


@dataclass(frozen=True)
class Played:
    """What all curves have in common.

    Attributes:
        whole: a cell of the agent without defence and attack, over all games of a seed.
        usual: the attack that goes without a name, whatever its backward rule.
        radii: of attackers that have none of their own.
        seeds: how often all games are played.
    """

    whole: GameCell
    usual: FGSM
    radii: Sequence[float]
    seeds: int


def plan_games(
    games: Played, defended: Sequence[Network], attackers: Sequence[Attacker], baseline: bool
) -> tuple[Curve, ...]:
    """Plan a curve of each agent against each attacker: without defence, and defended, compared with the former.

    Several attacks may be one and the same for an agent: it is played once.

    Args:
        games: what all have in common.
        defended: the agent with each defence.
        attackers: of all of them.
        baseline: whether the agent without defence is played where defended ones are.
    """
    known: dict[tuple[str, ...], Curve] = {}

    def added(defender: Network, attacker: Attacker, against: str = "") -> str:
        curve = _curve(games, defender, attacker, against)
        return known.setdefault(tuple(cell.digest for cell in curve.every_cell()), curve).label

    plain = [added(games.whole.defender, attacker) for attacker in attackers]
    for agent in defended:
        for attacker, against in zip(attackers, plain, strict=True):
            added(agent, attacker, against)
    return tuple(curve for curve in known.values() if baseline or not defended or curve.against)


def _curve(games: Played, defender: Network, attacker: Attacker, against: str) -> Curve:
    one = replace(attacker, eps=None)
    whole = replace(games.whole, defender=defender, passes=games.whole.passes if defender.random else 1)
    wholes = [_attacked(replace(whole, eps=(radius,)), one).plain for radius in attacker.eps or games.radii]
    cells, *repeats = cut_each(((cell, games.seeds) for cell in wholes), min(whole.stop, BATCH))
    cell = _attacked(replace(whole, eps=(1.0,)), one)
    label = _label_of(cell, _is_usual(attacker, games.usual))
    return Curve(label, cells, paper=paper_changes(cell), repeats=tuple(repeats), against=against)


def _attacked(whole: GameCell, attacker: Attacker) -> GameCell:
    """Return the cell under an attacker that gives up no frame of a random agent.

    Attacks call an example lost by the mean softmax of the passes; such an agent acts by its mean values.
    """
    cell = attacked(whole, attacker)
    if cell.attack is None or not cell.adversary.random:
        return cell
    return replace(cell, attack=cell.attack.plain(True, True, own=False))


def _is_usual(attacker: Attacker, usual: FGSM) -> bool:
    if not isinstance(attacker.attack, FGSM):
        return False
    return replace(attacker.attack.gradient, backward=usual.gradient.backward) == usual.gradient


def _label_of(cell: GameCell, usual: bool) -> str:
    """Name a curve by defender, and by what its adversary does where that is not the usual."""
    attack = cell.attack
    assert attack is not None
    parts = [cell.defender.label if cell.defender.defenses else "original"]
    parts += [] if usual else [attack.describe(False)]
    if cell.transferred:
        parts.append("gradient of the original")
    elif isinstance(attack, GradientAttack) and cell.adversary.has_rules:
        parts.append(f"{attack.gradient.backward} backward")
    return ", ".join([*parts, *(["newest frame"] if cell.newest else []), *(["sticky actions"] if cell.sticky else [])])

"""Attackers as text writes them, and batteries of them by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast, get_args

from saplab.attacks.apgd import APGD
from saplab.attacks.base import Attack
from saplab.attacks.fgsm import FGSM, RandomNoise
from saplab.attacks.gradient import MonteCarlo
from saplab.attacks.pgd import PGD, Iterative
from saplab.attacks.square import Square
from saplab.attacks.threat import eps_of
from saplab.defenses.base import Defense
from saplab.system.registry import split_sum

Whose = Literal["self", "dense"]


@dataclass(frozen=True)
class Attacker:
    """One line of a battery.

    Attributes:
        attack: with all its settings.
        whose: the network that it asks: ``self``, the defended one, or ``dense``, the same without its defence.
        eps: radii of its own; None for those of the whole evaluation.
    """

    attack: Attack
    whose: Whose = "self"
    eps: tuple[float, ...] | None = None

    def against(self, defenses: Sequence[Defense]) -> "Attacker":
        """Return this attacker as it is for a network with these defences: settings without effect at their plainest.

        Without randomness one sample says all. An attack made on the undefended network goes on where that one is
        lost, since the defended one may still stand.
        """
        whose: Whose = self.whose if defenses and self.attack.knowledge != "nothing" else "self"
        own = whose == "self"
        random = own and any(defense.random for defense in defenses)
        rules = own and any(defense.has_rules for defense in defenses)
        return replace(self, attack=self.attack.plain(random, rules, own), whose=whose)


def parse_attackers(text: str, gradient: MonteCarlo | None = None, whose: Whose = "self") -> tuple[Attacker, ...]:
    """Read attacks as the command line writes them: ``fgsm``, ``pgd:steps=40,backward=identity``, joined by ``+``.

    A part may be the name of a battery. Any setting of the attack or of its gradient may be given, and
    ``adversary=dense`` and ``lambda=64`` (several joined by ``/``).

    Args:
        text: at least one attack.
        gradient: what the attacks' gradients are where the text does not say otherwise.
        whose: likewise.

    Raises:
        ValueError: an unknown name or setting, or a value that the attack refuses.
    """
    found = (part for word in split_sum(text) or [""] for part in _parse(word, gradient or MonteCarlo(), whose))
    return tuple(dict.fromkeys(found))


def _parse(text: str, gradient: MonteCarlo, whose: Whose) -> tuple[Attacker, ...]:
    if text in BATTERIES:
        return BATTERIES[text](gradient)
    registry = Attack.registry
    if text not in registry.names and ":" not in text:
        raise ValueError(f"`attack` must be one of {', '.join((*BATTERIES, *registry.names))}, got {text!r}")
    reading = registry.read(text)
    settings = dict(reading.settings)
    chosen, strengths = settings.pop("adversary", whose), settings.pop("lambda", None)
    if chosen not in get_args(Whose):
        raise ValueError(f"`adversary` must be self or dense, got {chosen!r}")
    own = None if strengths is None else radii_of(parse_strengths(str(strengths).replace("/", ",")))
    return (Attacker(registry.make(reading.kind, settings, gradient), cast(Whose, chosen), own),)


def parse_strengths(text: str) -> tuple[float, ...]:
    """Read λ in pixel steps, joined by commas: ``0,1,2,4,8``."""
    try:
        strengths = tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(f"`lambda` must be numbers joined by commas, such as 0,1,2,4,8, got {text!r}") from None
    if not all(0 <= strength <= 255 for strength in strengths):
        raise ValueError(f"`lambda` must be within [0, 255] pixel steps, got {text!r}")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"`lambda` must not name a strength twice, got {text!r}")
    return strengths


def radii_of(strengths: Sequence[float]) -> tuple[float, ...]:
    """Return the radii, in the unit of [0, 1] images, of strengths λ."""
    return tuple(map(eps_of, strengths))


def attackers_of(
    attacks: str | Attack | Attacker | Sequence[str | Attack | Attacker], gradient: MonteCarlo
) -> tuple[Attacker, ...]:
    """Return the attackers that a caller names: text, attacks, attackers, or a sequence of these."""
    if isinstance(attacks, str):
        return parse_attackers(attacks, gradient)
    if isinstance(attacks, Attack | Attacker):
        return (Attacker(attacks) if isinstance(attacks, Attack) else attacks,)
    if not isinstance(attacks, Sequence):
        raise TypeError(f"`attacks` must be a battery's name, attacks, or a sequence of these, got {attacks!r}")
    if not attacks:
        raise ValueError("`attacks` must hold at least one attack, got none")
    return tuple(dict.fromkeys(one for attack in attacks for one in attackers_of(attack, gradient)))


def _paper(gradient: MonteCarlo) -> tuple[Attacker, ...]:
    """Return the paper's: random noise, FGSM by the mask, the iterative attack, and both made on the dense network."""
    return (
        Attacker(RandomNoise()),
        Attacker(FGSM(gradient), "dense"),
        Attacker(FGSM(replace(gradient, backward="mask"))),
        Attacker(Iterative(gradient=gradient), "dense"),
        Attacker(Iterative(gradient=_a_step(gradient, "mask"))),
    )


def _standard(gradient: MonteCarlo) -> tuple[Attacker, ...]:
    """Return the least by which a number should be judged: an attack of each kind that a masked gradient fails.

    That is the own gradient with the defence's backward rule and straight through it, twice as many steps, another
    loss, the undefended network's gradient, and a black box.
    """
    few, few_identity = _a_step(gradient, "mask"), _a_step(gradient, "identity")
    return (
        Attacker(RandomNoise()),
        Attacker(PGD(gradient=gradient, steps=20), "dense"),
        Attacker(PGD(gradient=few, steps=20)),
        Attacker(PGD(gradient=few_identity, steps=20)),
        Attacker(PGD(gradient=few_identity, steps=40)),
        Attacker(APGD(gradient=replace(few_identity, loss="dlr"), steps=20)),
        Attacker(Square(queries=100, passes=few.samples)),
    )


def _adaptive(gradient: MonteCarlo) -> tuple[Attacker, ...]:
    """Return the paper's and the standard ones, and more of what has broken such defences.

    That is smaller Monte Carlo budgets, whose gradients come with those of the largest, FGSM with identity backward,
    APGD on both losses, and one attack in a ball so wide that it should reach chance.
    """
    _, *pgd, apgd_dlr, square = _standard(gradient)
    few_identity = _a_step(gradient, "identity")
    budgets = [10**k for k in range(len(str(gradient.samples))) if 10**k < gradient.samples]
    return (
        *_paper(gradient),
        *(Attacker(FGSM(replace(gradient, backward="mask", samples=budget))) for budget in budgets),
        Attacker(FGSM(replace(gradient, backward="identity"))),
        *pgd,
        Attacker(APGD(gradient=replace(few_identity, loss="cross-entropy"), steps=20)),
        apgd_dlr,
        square,
        Attacker(PGD(gradient=few_identity, steps=20), eps=radii_of((64.0,))),
    )


BATTERIES: Final[Mapping[str, Callable[[MonteCarlo], tuple[Attacker, ...]]]] = {
    "standard": _standard,
    "paper": _paper,
    "adaptive": _adaptive,
}


def _a_step(gradient: MonteCarlo, rule: Any) -> MonteCarlo:
    """Return the gradient of attacks of many steps: a quarter of the samples in each step, 1 to 10."""
    return replace(gradient, samples=min(10, max(1, gradient.samples // 4)), backward=rule)

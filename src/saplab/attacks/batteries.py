"""Attacks by name: their settings as a cell stores them, as the command line writes them, and batteries of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, get_args, get_type_hints

from saplab.attacks import APGD, FGSM, PGD, Iterative, MonteCarlo, RandomNoise, Square
from saplab.defenses.specs import has_rules, is_random

Attack = RandomNoise | FGSM | Iterative | PGD | APGD | Square
Whose = Literal["self", "dense"]
ATTACKS: Final[dict[str, type[Attack]]] = {
    "noise": RandomNoise,
    "fgsm": FGSM,
    "iterative": Iterative,
    "pgd": PGD,
    "apgd": APGD,
    "square": Square,
}
BATTERIES: Final = ("paper", "adaptive")
_GRADIENT: Final = tuple(field.name for field in fields(MonteCarlo))


@dataclass(frozen=True)
class Adversary:
    """One line of a battery: an attack, the network whose gradient it uses, and strengths of its own.

    Args:
        attack: with all its settings.
        whose: ``self``, the defended network, or ``dense``, the same without its defence.
        strengths: λ in pixel steps; None for those of the whole evaluation.
    """

    attack: Attack
    whose: Whose = "self"
    strengths: tuple[float, ...] | None = None

    def against(self, defense: str) -> "Adversary":
        """Give this adversary as it is for a network with this defence: settings without effect at their plainest.

        Without randomness one sample says all. An attack made on the undefended network goes on where that one is
        lost, since the defended one may still stand.
        """
        whose: Whose = self.whose if defense else "self"
        plain = whose == "dense" or not is_random(defense)
        attack = self.attack
        if not isinstance(attack, RandomNoise | Square):
            samples = 1 if plain else attack.gradient.samples
            rule = attack.gradient.backward if whose == "self" and has_rules(defense) else "mask"
            attack = replace(attack, gradient=replace(attack.gradient, samples=samples, backward=rule))
        if isinstance(attack, Iterative | PGD | APGD | Square):
            attack = replace(attack, stop_when_lost=attack.stop_when_lost and whose == "self")
        if isinstance(attack, Square) and plain:
            attack = replace(attack, passes=1)
        return replace(self, attack=attack, whose=whose)


def settings_of(attack: Attack) -> dict[str, Any]:
    """Give an attack's name and every setting, those of its gradient beside its own, as a cell stores them."""
    name = next(name for name, kind in ATTACKS.items() if type(attack) is kind)
    values = dict(vars(attack))
    gradient = values.pop("gradient", None)
    return {"name": name, **values, **(vars(gradient) if gradient else {})}


def attack_of(settings: Mapping[str, Any]) -> Attack:
    """Make the attack that a cell's settings describe.

    Raises:
        ValueError: an unknown attack or setting, or a value that the attack refuses.
    """
    values = dict(settings)
    name = values.pop("name")
    if name not in ATTACKS:
        raise ValueError(f"`attack` must be one of {', '.join(ATTACKS)}, got {name!r}")
    return _make(ATTACKS[name], values, MonteCarlo())


def parse_adversaries(text: str, gradient: MonteCarlo, whose: Whose = "self") -> tuple[Adversary, ...]:
    """Read attacks as the command line writes them: ``fgsm``, ``pgd:steps=40,backward=identity``, joined by ``+``.

    A part may be the name of a battery (``paper``, ``adaptive``). Any setting of the attack or of its gradient may be
    given, and ``adversary=dense`` and ``lambda=64`` (several joined by ``/``).

    Args:
        text: at least one attack.
        gradient: what the attacks' gradients are where the text does not say otherwise.
        whose: likewise.

    Raises:
        ValueError: an unknown name or setting, or a value that the attack refuses.
    """
    found = (part for word in text.split("+") for part in _parse(word.strip(), gradient, whose))
    return tuple(dict.fromkeys(found))


def _parse(text: str, gradient: MonteCarlo, whose: Whose) -> tuple[Adversary, ...]:
    name, _, options = text.partition(":")
    if name in BATTERIES and not options:
        return battery(name, gradient)
    if name not in ATTACKS:
        raise ValueError(f"`attack` must be one of {', '.join((*BATTERIES, *ATTACKS))}, got {text!r}")
    values = dict(_pair(pair) for pair in options.split(",")) if options else {}
    chosen = values.pop("adversary", whose)
    if chosen not in get_args(Whose):
        raise ValueError(f"`adversary` must be self or dense, got {chosen!r}")
    strengths = values.pop("lambda", None)
    own = None if strengths is None else parse_strengths(strengths.replace("/", ","))
    return (Adversary(_make(ATTACKS[name], values, gradient), chosen, own),)  # type: ignore[arg-type]


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"`attack` settings are written NAME=VALUE, got {text!r}")
    return key.strip(), value.strip()


def _make(kind: type[Attack], values: Mapping[str, Any], gradient: MonteCarlo) -> Attack:
    """Make an attack from its own settings and its gradient's, texts or values."""
    own = {field.name for field in fields(kind)} - {"gradient"}
    slopes = set(_GRADIENT) if any(field.name == "gradient" for field in fields(kind)) else set()
    if unknown := sorted(values.keys() - own - slopes):
        known = ", ".join(sorted(own | slopes)) or "none"
        raise ValueError(f"`attack` {kind.__name__} has no setting {unknown[0]!r}; it has {known}")
    given = {name: _typed(kind if name in own else MonteCarlo, name, value) for name, value in values.items()}
    arguments = {name: value for name, value in given.items() if name in own}
    if slopes:
        arguments["gradient"] = replace(gradient, **{name: v for name, v in given.items() if name in slopes})
    return kind(**arguments)


def _typed(kind: type, name: str, value: Any) -> Any:
    """Read a text as the type that a setting has; leave other values as they are."""
    if not isinstance(value, str):
        return value
    wanted = get_type_hints(kind)[name]
    types = set(get_args(wanted)) or {wanted}
    try:
        if bool in types:
            return {"true": True, "false": False}[value.lower()]
        return int(value) if int in types else float(value) if float in types else value
    except (KeyError, ValueError):
        raise ValueError(f"`attack` setting {name} must be {_type_words(types)}, got {value!r}") from None


def _type_words(types: set[Any]) -> str:
    return "true or false" if bool in types else "a whole number" if int in types else "a number"


def parse_strengths(text: str) -> tuple[float, ...]:
    """Read λ in pixel steps, joined by commas: ``0,1,2,4,8``.

    Raises:
        ValueError: not numbers, one outside [0, 255], or one twice.
    """
    try:
        strengths = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"`lambda` must be numbers joined by commas, such as 0,1,2,4,8, got {text!r}") from None
    if not all(0 <= strength <= 255 for strength in strengths):
        raise ValueError(f"`lambda` must be within [0, 255] pixel steps, got {text!r}")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"`lambda` must not name a strength twice, got {text!r}")
    return strengths


def battery(name: str, gradient: MonteCarlo) -> tuple[Adversary, ...]:
    """Give the attacks of a battery, cheap ones first.

    ``paper``: random noise, FGSM by the mask, the iterative attack, and both made on the undefended network.
    ``adaptive``: these, and what has broken such defences since: identity backward (BPDA), projected gradient
    descent and APGD over the expectation (EOT), a black box, and one attack without bounds to speak of.

    Args:
        name: of the battery.
        gradient: its `samples` are those of one-step attacks; many-step ones take a quarter in each step, 1 to 10.
    """
    mask, identity = (replace(gradient, backward=rule) for rule in ("mask", "identity"))
    a_step = min(10, max(1, gradient.samples // 4))
    few, few_identity = (replace(g, samples=a_step) for g in (mask, identity))
    paper = (
        Adversary(RandomNoise()),
        Adversary(FGSM(gradient), "dense"),
        Adversary(FGSM(mask)),
        Adversary(Iterative(gradient=gradient), "dense"),
        Adversary(Iterative(gradient=few)),
    )
    if name == "paper":
        return paper
    budgets = (Adversary(FGSM(replace(mask, samples=n))) for n in _tenths(gradient.samples))
    return (
        *paper,
        *budgets,
        Adversary(FGSM(identity)),
        Adversary(PGD(gradient=gradient, steps=20), "dense"),
        Adversary(PGD(gradient=few, steps=20)),
        Adversary(PGD(gradient=few_identity, steps=20)),
        Adversary(PGD(gradient=few_identity, steps=40)),
        Adversary(APGD(gradient=replace(few_identity, loss="cross-entropy"), steps=20)),
        Adversary(APGD(gradient=replace(few_identity, loss="dlr"), steps=20)),
        Adversary(Square(queries=100, passes=a_step)),
        Adversary(PGD(gradient=few_identity, steps=20), strengths=(64.0,)),
    )


def _tenths(samples: int) -> Sequence[int]:
    """Give the smaller Monte Carlo budgets whose gradients come with those of the largest: 1, 10, 100, …"""
    budgets, n = [], 1
    while n < samples:
        budgets.append(n)
        n *= 10
    return budgets

"""Attackers as text writes them, and batteries of them by name."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, Protocol, cast, get_args

from saplab.attacks.apgd import APGD
from saplab.attacks.arc import ARC
from saplab.attacks.base import Attack
from saplab.attacks.fgsm import FGSM, RandomNoise
from saplab.attacks.gradient import MonteCarlo
from saplab.attacks.pgd import PGD, Iterative
from saplab.attacks.square import Square
from saplab.attacks.threat import LINF, ThreatModel, eps_of
from saplab.system.precision import Precision
from saplab.system.registry import instead, split_sum
from saplab.system.settings import settings_of

Whose = Literal["self", "dense"]


@dataclass(frozen=True)
class Traits:
    """What a rehearsal found of a network, as far as batteries go by it; None stands for either way.

    Attributes:
        random: whether its passes differ.
        saturated: whether its gradient by ``relaxed`` is another than the plain one.
        blind: whether both tell nothing: they are 0, do not reach the image, or are no slope of what it computes.
        mixture: whether it is a `saplab.Mixture` that has no defence on it.
        classes: how many it tells apart.
    """

    random: bool | None = None
    saturated: bool | None = None
    blind: bool | None = None
    mixture: bool | None = None
    classes: int | None = None

    def fit(self, found: "Traits") -> bool:
        """Return whether these traits, of which None are wishes for nothing, are what was found."""
        pairs = ((getattr(self, f.name), getattr(found, f.name)) for f in fields(self))
        return all(wish is None or wish == fact for wish, fact in pairs)


@dataclass(frozen=True)
class Attacker:
    """One line of a battery.

    Attributes:
        attack: with all its settings.
        whose: the network that it asks: ``self``, the defended one, or ``dense``, the same without its defence.
        eps: radii of its own; None for those of the whole evaluation.
        unbounded: whether `eps` stands for a ball so wide that an attack should reach chance; see `in_room`.
        only: of a battery's attacker, for which networks it is; None where somebody named it, for all.
    """

    attack: Attack
    whose: Whose = "self"
    eps: tuple[float, ...] | None = None
    unbounded: bool = field(default=False, compare=False)
    only: Traits | None = field(default=None, compare=False)

    def in_room(self, threat: ThreatModel, values: int) -> "Attacker | None":
        """Return this attacker with the radius that is unbounded for examples of so many values; None where none is."""
        if threat.in_steps or not self.unbounded:
            return self
        radius = threat.unbounded(values)
        return replace(self, eps=(radius,)) if math.isfinite(radius) else None

    def fitted(self, found: Traits) -> "Attacker | None":
        """Return a battery's attacker as it is for a network with these traits; None where it is not for it.

        Of few classes there are fewer targets, and the margin where the DLR loss is not defined.
        """
        if self.only is None:
            return self
        if not self.only.fit(found):
            return None
        classes, attack = found.classes or math.inf, cast(Any, self.attack)
        if (targets := getattr(attack, "targets", 0)) >= classes:
            attack = replace(attack, targets=classes - 1)
        if getattr(attack, "gradient", MonteCarlo()).loss == "dlr" and classes < (4 if targets else 3):
            attack = replace(attack, gradient=replace(attack.gradient, loss="margin"))
        return replace(self, attack=attack)

    def against(self, network: "Asked", reference: "Asked | None") -> "Attacker":
        """Return this attacker as it is for a network: settings without effect at their plainest.

        Without randomness one sample says all. An attack made on the reference, which is the network without its
        defences or with its own draws frozen, goes on where that one is lost, since the other may still stand.
        """
        own = self.whose == "self" or reference is None or self.attack.knowledge == "nothing"
        asked = network if own or reference is None else reference
        blind = self.attack.knowledge == "nothing"
        attack = self.attack.plain(asked.random and not blind, asked.has_rules and not blind, own)
        return replace(self, attack=attack, whose="self" if own else "dense")


class Asked(Protocol):
    """A network that attackers ask, as they need to know it; see `saplab.runs.Network`."""

    @property
    def random(self) -> bool:
        """Whether its passes differ."""

    @property
    def has_rules(self) -> bool:
        """Whether backward rules make a difference."""


def parse_attackers(
    text: str, gradient: MonteCarlo | None = None, whose: Whose = "self", threat: ThreatModel = LINF
) -> tuple[Attacker, ...]:
    """Read attacks as the command line writes them: ``fgsm``, ``pgd:steps=40,backward=identity``, joined by ``+``.

    A part may be the name of a battery. Any setting of the attack or of its gradient may be given, and
    ``adversary=dense`` and ``lambda=64`` (several joined by ``/``) or ``eps=0.25``.

    Args:
        text: at least one attack.
        gradient: what the attacks' gradients are where the text does not say otherwise.
        whose: likewise.
        threat: in which radii are measured.

    Raises:
        ValueError: an unknown name or setting, or a value that the attack refuses.
    """
    known = gradient or MonteCarlo()
    return _once(part for word in split_sum(text) or [""] for part in _parse(word, known, whose, threat))


def _once(attackers: Iterable[Attacker]) -> tuple[Attacker, ...]:
    """Return each attacker once; one that somebody named is for all networks, whatever a battery says of it."""
    found: dict[Attacker, Attacker] = {}
    for one in attackers:
        found[one] = one if one.only is None else found.get(one, one)
    return tuple(found.values())


def _parse(text: str, gradient: MonteCarlo, whose: Whose, threat: ThreatModel) -> tuple[Attacker, ...]:
    if text in BATTERIES:
        return tuple(replace(one, only=one.only or Traits()) for one in BATTERIES[text](gradient))
    registry = Attack.registry
    if text not in registry.names and ":" not in text:
        wanted = f"`attack` must be one of {', '.join((*BATTERIES, *registry.names))}, got {text!r}"
        raise ValueError(wanted + _instead(text))
    reading = registry.read(text)
    settings = dict(reading.settings)
    chosen = settings.pop("adversary", whose)
    if chosen not in get_args(Whose):
        raise ValueError(f"`adversary` must be self or dense, got {chosen!r}")
    own = _own_radii(settings, {setting.name for setting in settings_of(reading.kind)}, threat)
    if any(one.name == "precision" and one.hint == Precision for one in settings_of(reading.kind)):
        settings.setdefault("precision", gradient.precision)  # also of queries, which have no gradient to take it from
    return (Attacker(registry.make(reading.kind, settings, gradient), cast(Whose, chosen), own),)


def _instead(text: str) -> str:
    """Return what to write in the place of a name that papers or other libraries use, or that is misspelt."""
    if "," in text.partition(":")[0]:
        return "; attacks are joined by +"
    name = re.sub(r"[^a-z&]", "", text.partition(":")[0].partition("(")[0].casefold())
    if name in ELSEWHERE:
        return f"; what comes closest to it is {ELSEWHERE[name]}"
    return instead(text, (*BATTERIES, *Attack.registry.names), "steps")


def _own_radii(settings: dict[str, Any], known: Collection[str], threat: ThreatModel) -> tuple[float, ...] | None:
    """Take an attack's own radii out of its settings, unless the class knows a setting of that name."""
    if "lambda" not in known and (strengths := settings.pop("lambda", None)) is not None:
        require_steps(threat)
        return radii_of(parse_strengths(str(strengths).replace("/", ",")))
    if "eps" not in known and (radius := settings.pop("eps", None)) is not None:
        return parse_radii(str(radius))
    return None


def require_steps(threat: ThreatModel) -> None:
    """Refuse strengths λ where radii are not read in pixel steps."""
    if not threat.in_steps:
        usual = f" {threat.usual:g}" if math.isfinite(threat.usual) else ""
        raise ValueError(
            f"`lambda` counts pixel steps of [0, 1] images in L∞; give `eps`{usual}{threat.setting} instead"
        )


def parse_radii(text: str) -> tuple[float, ...]:
    """Read radii in the norm's own unit, joined by commas: ``2/255,8/255`` or ``0.5``."""
    try:
        parts = [part.partition("/") for part in text.split(",")]
        found = tuple(float(top) / float(bottom) if slash else float(top) for top, slash, bottom in parts)
    except (ValueError, ZeroDivisionError):
        wanted = "numbers or fractions joined by commas, such as 2/255,8/255"
        raise ValueError(f"`eps` must be {wanted}, got {text!r}") from None
    if not all(0 <= radius < math.inf for radius in found):
        raise ValueError(f"`eps` must be >= 0 and finite, got {text!r}")
    if len(set(found)) < len(found):
        raise ValueError(f"`eps` must not name a radius twice, got {text!r}")
    return found


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
    attacks: str | Attack | Attacker | Sequence[str | Attack | Attacker], gradient: MonteCarlo,
    threat: ThreatModel = LINF,
) -> tuple[Attacker, ...]:  # fmt: skip
    """Return the attackers that a caller names: text, attacks, attackers, or a sequence of these."""
    if isinstance(attacks, str):
        return parse_attackers(attacks, gradient, threat=threat)
    if isinstance(attacks, Attack | Attacker):
        return (Attacker(attacks) if isinstance(attacks, Attack) else attacks,)
    if isinstance(attacks, type) and issubclass(attacks, Attack):
        name = attacks.__name__
        raise TypeError(f"`attacks` must be attacks, got the class {name}: write saplab.{name}()")
    if not isinstance(attacks, Sequence):
        raise TypeError(f"`attacks` must be a battery's name, attacks, or a sequence of these, got {attacks!r}")
    if not attacks:
        raise ValueError("`attacks` must hold at least one attack, got none")
    return _once(one for attack in attacks for one in attackers_of(attack, gradient, threat))


def _paper(gradient: MonteCarlo) -> tuple[Attacker, ...]:
    """Return the paper's: random noise, FGSM by the mask, the iterative attack, and both made on the dense network."""
    return (
        Attacker(RandomNoise()),
        Attacker(FGSM(gradient), "dense"),
        Attacker(FGSM(replace(gradient, backward="mask"))),
        Attacker(Iterative(gradient=gradient), "dense"),
        Attacker(Iterative(gradient=_a_step(gradient, "mask"))),
    )


def _quick(gradient: MonteCarlo) -> tuple[Attacker, ...]:
    """Return a first look: the own gradient by its rule and straight through the defence, and the network's beside it.

    Where a gradient saturates, a relaxed one as well.
    """
    few, few_identity, relaxed = (_a_step(gradient, rule) for rule in ("mask", "identity", "relaxed"))
    return (
        Attacker(PGD(gradient=gradient, steps=20), "dense"),
        Attacker(PGD(gradient=few, steps=20)),
        Attacker(PGD(gradient=few_identity, steps=20)),
        Attacker(PGD(gradient=relaxed, steps=20), only=_SATURATED),
    )


def _standard(gradient: MonteCarlo) -> tuple[Attacker, ...]:
    """Return the least by which a number should be judged: an attack of each kind that a masked gradient fails.

    That is the own gradient with the defence's backward rule and straight through it, twice as many steps, another
    loss, the undefended network's gradient, and a black box; for a network that saturates, the first and the loss by a
    relaxed gradient as well; for a mixture, the attack on its networks one by one. Where passes differ, one attack has
    twice the samples and averages over its steps too, by momentum; where they do not, the passes that averaging costs
    elsewhere go towards each of nine other classes, which bounds accuracy most tightly. Where no gradient sees
    anything, the black box searches on.
    """
    few, few_identity, relaxed = (_a_step(gradient, rule) for rule in ("mask", "identity", "relaxed"))
    dlr, relaxed_dlr = (replace(one, loss="dlr") for one in (few_identity, relaxed))
    return (
        Attacker(RandomNoise()),
        Attacker(PGD(gradient=gradient, steps=20), "dense"),
        Attacker(PGD(gradient=few, steps=20)),
        Attacker(PGD(gradient=few_identity, steps=20)),
        Attacker(PGD(gradient=few_identity, steps=40)),
        Attacker(APGD(gradient=dlr, steps=20)),
        Attacker(_averaging(gradient, "identity"), only=Traits(random=True, saturated=False)),
        Attacker(APGD(gradient=dlr, steps=100, targets=9), only=Traits(random=False, saturated=False)),
        Attacker(PGD(gradient=relaxed, steps=20), only=_SATURATED),
        Attacker(APGD(gradient=relaxed_dlr, steps=20), only=_SATURATED),
        Attacker(_averaging(gradient, "relaxed"), only=Traits(random=True, saturated=True)),
        Attacker(APGD(gradient=relaxed_dlr, steps=100, targets=9), only=Traits(random=False, saturated=True)),
        Attacker(ARC(), only=Traits(mixture=True)),
        Attacker(Square(queries=100, passes=few.samples, precision=gradient.precision)),
        Attacker(Square(queries=1000, passes=few.samples, precision=gradient.precision), only=Traits(blind=True)),
    )


def _adaptive(gradient: MonteCarlo) -> tuple[Attacker, ...]:
    """Return the paper's and the standard ones, and more of what has broken such defences.

    That is smaller Monte Carlo budgets, whose gradients come with those of the largest, FGSM with identity backward,
    APGD on cross-entropy, and one attack in a ball so wide that it should reach chance.
    """
    few_identity = _a_step(gradient, "identity")
    budgets = [10**k for k in range(len(str(gradient.samples))) if 10**k < gradient.samples]
    return (
        *_paper(gradient),
        *(Attacker(FGSM(replace(gradient, backward="mask", samples=budget))) for budget in budgets),
        Attacker(FGSM(replace(gradient, backward="identity"))),
        *_standard(gradient)[1:],  # but for the noise, which is the paper's
        Attacker(APGD(gradient=replace(few_identity, loss="cross-entropy"), steps=20)),
        Attacker(PGD(gradient=few_identity, steps=20), eps=radii_of((127.5,)), unbounded=True),
    )


_SATURATED: Final = Traits(saturated=True)

BATTERIES: Final[Mapping[str, Callable[[MonteCarlo], tuple[Attacker, ...]]]] = {
    "quick": _quick,
    "standard": _standard,
    "paper": _paper,
    "adaptive": _adaptive,
}

ELSEWHERE: Final[Mapping[str, str]] = {  # names in papers and other libraries, and what comes closest here
    **dict.fromkeys(("cw", "c&w", "carlini", "carliniwagner", "deepfool", "fab"), "apgd:loss=margin"),
    "bpda": "pgd:backward=identity",
    **dict.fromkeys(("eot", "eotpgd", "mcpgd"), "pgd:samples=10"),
    **dict.fromkeys(("autoattack", "aa", "rand"), "standard"),
    **dict.fromkeys(("bim", "ifgsm"), "iterative"),
    **dict.fromkeys(("mifgsm", "mim"), "pgd:momentum=1"),
    "mcfgsm": "fgsm:samples=10",
    "apgdce": "apgd:loss=cross-entropy",
    "apgddlr": "apgd:loss=dlr",
    "apgdt": "apgd:loss=dlr,targets=9",
    **dict.fromkeys(("blackbox", "spsa", "nes", "nattack"), "square"),
    "random": "noise",
    "transfer": "pgd:adversary=dense",
}

VERSIONS: Final = {"standard": "saplab-1"}  # of batteries by which numbers are published: raised with every change


def _a_step(gradient: MonteCarlo, rule: Any) -> MonteCarlo:
    """Return the gradient of attacks of many steps: a quarter of the samples in each step, 1 to 10."""
    return replace(gradient, samples=min(10, max(1, gradient.samples // 4)), backward=rule)


def _averaging(gradient: MonteCarlo, rule: Any) -> PGD:
    """Return the attack whose every step averages most passes: twice those of the others, and what momentum keeps.

    Noise of single passes is another in each step, so that a decaying sum of gradients averages it away for nothing;
    what turns round within such a sum needs longer steps to do so.
    """
    twice = min(20, max(1, gradient.samples // 2))
    along = replace(gradient, samples=twice, backward=rule, loss="margin")
    return PGD(along, steps=40, relative_step=0.15, momentum=0.9)

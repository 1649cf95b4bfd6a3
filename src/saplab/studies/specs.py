"""Texts and settings to defences and attacks, and back: the one place that knows them by name."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from saplab.attacks import FGSM, MonteCarlo, RandomNoise
from saplab.defenses import SAP

Attack = FGSM | RandomNoise
DEFENSES: Final[dict[str, Callable[[float], SAP]]] = {"sap": SAP}
ATTACKS: Final = ("fgsm", "noise")


def parse_defenses(text: str) -> tuple[SAP, ...]:
    """Read defences as the command line writes them: ``sap:100``, several joined by ``+``; none for "".

    Raises:
        ValueError: an unknown name, a missing or malformed number, or one the defence refuses.
    """
    return tuple(_parse_defense(part) for part in text.split("+")) if text else ()


def _parse_defense(text: str) -> SAP:
    name, _, value = text.strip().partition(":")
    if name not in DEFENSES:
        raise ValueError(f"`defense` must be one of {', '.join(f'{n}:NUMBER' for n in DEFENSES)}, got {text!r}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"`defense` {name} needs a number ({name}:100), got {text!r}") from None
    return DEFENSES[name](number)


def defense_label(text: str) -> str:
    """Give the name that a chart shows: ``sap:100`` is "SAP-100", no defence is "dense"."""
    return "+".join(part.strip().replace(":", "-").upper() for part in text.split("+")) if text else "dense"


def attack_settings(name: str, gradient: MonteCarlo) -> dict[str, Any]:
    """Give an attack's settings as a cell stores them.

    Raises:
        ValueError: the attack is unknown.
    """
    if name == "noise":
        return {"name": "noise"}
    if name == "fgsm":
        return {"name": "fgsm", **vars(gradient)}
    raise ValueError(f"`attack` must be one of {', '.join(ATTACKS)}, got {name!r}")


def attack_of(settings: Mapping[str, Any]) -> Attack:
    """Make the attack that a cell's settings describe."""
    values = dict(settings)
    name = values.pop("name")
    return RandomNoise() if name == "noise" else FGSM(MonteCarlo(**values))


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

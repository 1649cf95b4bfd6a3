"""Texts and settings to defences and attacks, and back: the one place that knows them by name."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from saplab.attacks import FGSM, MonteCarlo, RandomNoise
from saplab.defenses import (
    SAP,
    DeterministicWeightPruning,
    Dropout,
    RandomlyScaledActivations,
    RandomlyScaledWeights,
    RandomNoisyActivations,
    RandomNoisyWeights,
    StochasticWeightPruning,
)
from saplab.defenses.settings import Setting
from saplab.defenses.sites import ActivationDefense
from saplab.defenses.weights import WeightDefense

Attack = FGSM | RandomNoise
Defense = ActivationDefense | WeightDefense
DEFENSES: Final[dict[str, Callable[[Setting], Defense]]] = {
    "sap": SAP,
    "dropout": Dropout,
    "rnw": RandomNoisyWeights,
    "rsw": RandomlyScaledWeights,
    "dwp": DeterministicWeightPruning,
    "swp": StochasticWeightPruning,
    "rna": RandomNoisyActivations,
    "rsa": RandomlyScaledActivations,
}
ATTACKS: Final = ("fgsm", "noise")


def parse_defenses(text: str) -> tuple[Defense, ...]:
    """Read defences as the command line writes them: ``sap:100``, several joined by ``+``; none for "".

    A number may be given for each name pattern: ``sap:stage3.*=50,*=100``.

    Raises:
        ValueError: an unknown name, a missing or malformed number, or one the defence refuses.
    """
    return tuple(_parse_defense(part.strip()) for part in text.split("+")) if text else ()


def _parse_defense(text: str) -> Defense:
    name, _, value = text.partition(":")
    if name not in DEFENSES:
        raise ValueError(f"`defense` must be one of {', '.join(f'{n}:NUMBER' for n in DEFENSES)}, got {text!r}")
    try:
        return DEFENSES[name](_parse_setting(value))
    except _NoNumberError:
        raise ValueError(
            f"`defense` {name} needs a number ({name}:100 or {name}:PATTERN=100,…), got {text!r}"
        ) from None


class _NoNumberError(Exception):
    """A text where a number should be."""


def _parse_setting(text: str) -> Setting:
    if "=" not in text:
        return _number(text)
    pairs = (part.rpartition("=") for part in text.split(","))
    return {pattern.strip(): _number(value) for pattern, _, value in pairs}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _NoNumberError from None


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

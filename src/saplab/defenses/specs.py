"""Defences by name, as the command line writes them: the one place that knows them so."""

from collections.abc import Callable
from typing import Final

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
_SCALING: Final = (SAP, Dropout, RandomlyScaledActivations)


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


def has_rules(text: str) -> bool:
    """Tell whether a defence, as the command line writes it, makes a difference between backward rules."""
    return any(isinstance(defense, _SCALING) for defense in parse_defenses(text))


def is_random(text: str) -> bool:
    """Tell whether a defence, as the command line writes it, draws anything."""
    return any(not isinstance(defense, DeterministicWeightPruning) for defense in parse_defenses(text))

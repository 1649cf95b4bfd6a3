"""Stochastic defences on trained PyTorch networks, and adversaries that know about the randomness.

Public names load on first use, so that ``import saplab`` and ``saplab --help`` stay fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "SAP": "saplab.defenses",
    "DeterministicWeightPruning": "saplab.defenses",
    "Dropout": "saplab.defenses",
    "RandomNoisyActivations": "saplab.defenses",
    "RandomNoisyWeights": "saplab.defenses",
    "RandomlyScaledActivations": "saplab.defenses",
    "RandomlyScaledWeights": "saplab.defenses",
    "StochasticWeightPruning": "saplab.defenses",
    "defend": "saplab.defenses",
    "predict": "saplab.defenses",
    "same_draws": "saplab.defenses",
    "sites": "saplab.defenses",
    "load_model": "saplab.models.zoo",
    "load_cifar10": "saplab.data.cifar10",
    "APGD": "saplab.attacks",
    "FGSM": "saplab.attacks",
    "Estimate": "saplab.attacks",
    "Iterative": "saplab.attacks",
    "MonteCarlo": "saplab.attacks",
    "PGD": "saplab.attacks",
    "RandomNoise": "saplab.attacks",
    "Square": "saplab.attacks",
    "Evidence": "saplab.evaluation.evidence",
    "accuracy": "saplab.metrics",
    "calibration": "saplab.metrics",
    "game_value": "saplab.metrics",
    "verdict": "saplab.evaluation.verdict",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'saplab' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

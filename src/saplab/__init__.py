"""Stochastic defences on trained PyTorch networks, and adversaries that know about the randomness.

Public names load on first use, so that ``import saplab`` and ``saplab --help`` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saplab.attacks import APGD as APGD
    from saplab.attacks import ARC as ARC
    from saplab.attacks import FGSM as FGSM
    from saplab.attacks import PGD as PGD
    from saplab.attacks import Attack as Attack
    from saplab.attacks import Attacker as Attacker
    from saplab.attacks import Cost as Cost
    from saplab.attacks import Estimate as Estimate
    from saplab.attacks import GradientAttack as GradientAttack
    from saplab.attacks import Iterative as Iterative
    from saplab.attacks import MonteCarlo as MonteCarlo
    from saplab.attacks import Problem as Problem
    from saplab.attacks import RandomNoise as RandomNoise
    from saplab.attacks import Square as Square
    from saplab.attacks import ThreatModel as ThreatModel
    from saplab.data.cifar10 import load_cifar10 as load_cifar10
    from saplab.defenses import JPEG as JPEG
    from saplab.defenses import SAP as SAP
    from saplab.defenses import BitDepth as BitDepth
    from saplab.defenses import Defense as Defense
    from saplab.defenses import DeterministicWeightPruning as DeterministicWeightPruning
    from saplab.defenses import Draw as Draw
    from saplab.defenses import Dropout as Dropout
    from saplab.defenses import GaussianNoise as GaussianNoise
    from saplab.defenses import Mixture as Mixture
    from saplab.defenses import RandomCrop as RandomCrop
    from saplab.defenses import RandomisedFeatures as RandomisedFeatures
    from saplab.defenses import RandomlyScaledActivations as RandomlyScaledActivations
    from saplab.defenses import RandomlyScaledWeights as RandomlyScaledWeights
    from saplab.defenses import RandomNoisyActivations as RandomNoisyActivations
    from saplab.defenses import RandomNoisyWeights as RandomNoisyWeights
    from saplab.defenses import RandomPrecision as RandomPrecision
    from saplab.defenses import RandomResizePad as RandomResizePad
    from saplab.defenses import Stochastic as Stochastic
    from saplab.defenses import StochasticRounding as StochasticRounding
    from saplab.defenses import StochasticWeightPruning as StochasticWeightPruning
    from saplab.defenses import bpda as bpda
    from saplab.defenses import defend as defend
    from saplab.defenses import predict as predict
    from saplab.defenses import undefended as undefended
    from saplab.defenses.defended import sites as sites
    from saplab.evaluation.certificates import Certificates as Certificates
    from saplab.evaluation.certificates import certify as certify
    from saplab.evaluation.evaluate import evaluate as evaluate
    from saplab.evaluation.evidence import Evidence as Evidence
    from saplab.evaluation.mixing import mix as mix
    from saplab.evaluation.result import Result as Result
    from saplab.evaluation.result import load as load
    from saplab.evaluation.verdict import Verdict as Verdict
    from saplab.evaluation.verdict import verdict as verdict
    from saplab.metrics import game_value as game_value
    from saplab.metrics.accuracy import accuracy as accuracy
    from saplab.metrics.calibration import calibration as calibration
    from saplab.models.zoo import load_model as load_model
    from saplab.runs.engines import register_engine as register_engine
    from saplab.system.registry import register as register

__version__ = "0.2.0"

_HOMES: dict[str, str] = {
    **dict.fromkeys(
        ("APGD", "ARC", "FGSM", "PGD", "Attack", "Attacker", "Cost", "Estimate", "GradientAttack", "Iterative",
         "MonteCarlo", "Problem", "RandomNoise", "Square", "ThreatModel"),
        "saplab.attacks",
    ),
    **dict.fromkeys(
        ("JPEG", "SAP", "BitDepth", "Defense", "DeterministicWeightPruning", "Draw", "Dropout", "GaussianNoise",
         "Mixture", "RandomCrop", "RandomNoisyActivations", "RandomNoisyWeights", "RandomPrecision", "RandomResizePad",
         "RandomisedFeatures", "RandomlyScaledActivations", "RandomlyScaledWeights", "Stochastic",
         "StochasticRounding", "StochasticWeightPruning", "bpda", "defend", "predict",
         "sites", "undefended"),
        "saplab.defenses",
    ),
    **dict.fromkeys(("accuracy", "calibration", "game_value"), "saplab.metrics"),
    **dict.fromkeys(("Certificates", "certify"), "saplab.evaluation.certificates"),
    **dict.fromkeys(("Result", "load"), "saplab.evaluation.result"),
    **dict.fromkeys(("Verdict", "verdict"), "saplab.evaluation.verdict"),
    "Evidence": "saplab.evaluation.evidence",
    "evaluate": "saplab.evaluation.evaluate",
    "mix": "saplab.evaluation.mixing",
    "load_cifar10": "saplab.data.cifar10",
    "load_model": "saplab.models.zoo",
    "register": "saplab.system.registry",
    "register_engine": "saplab.runs.engines",
}  # fmt: skip

__all__ = ["__version__", *_HOMES]


if not TYPE_CHECKING:  # else type checkers would take any name for a public one

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            from saplab.system.words import meant

            near = "" if name.startswith("_") else meant(name, __all__)
            hint = f"; did you mean saplab.{near}?" if near else ""
            raise AttributeError(f"module 'saplab' has no attribute {name!r}{hint}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""What a defender may do: defences, the places they act on, defended networks and their predictions."""

from saplab.defenses.base import Defense, Draw, label_of, parse_defenses
from saplab.defenses.defended import Defended, defend, defenses_of, is_random, shares_draws, sites, undefended
from saplab.defenses.features import RandomisedFeatures
from saplab.defenses.geometry import RandomCrop, RandomResizePad
from saplab.defenses.jpeg import JPEG
from saplab.defenses.mixture import Mixture
from saplab.defenses.noise import Dropout, RandomlyScaledActivations, RandomNoisyActivations
from saplab.defenses.pixels import BitDepth, GaussianNoise, StochasticRounding
from saplab.defenses.precision import RandomPrecision
from saplab.defenses.prediction import Prediction, predict, predict_with_votes
from saplab.defenses.sap import SAP
from saplab.defenses.stochastic import Stochastic
from saplab.defenses.surrogate import bpda
from saplab.defenses.weights import (
    DeterministicWeightPruning,
    RandomlyScaledWeights,
    RandomNoisyWeights,
    StochasticWeightPruning,
)

__all__ = [
    "JPEG", "SAP", "BitDepth", "Defended", "Defense", "DeterministicWeightPruning", "Draw", "Dropout", "GaussianNoise",
    "Mixture", "Prediction", "RandomCrop", "RandomNoisyActivations", "RandomNoisyWeights", "RandomPrecision",
    "RandomResizePad", "RandomisedFeatures", "RandomlyScaledActivations", "RandomlyScaledWeights", "Stochastic",
    "StochasticRounding", "StochasticWeightPruning", "bpda", "defend", "defenses_of", "is_random", "label_of",
    "parse_defenses", "predict", "predict_with_votes", "shares_draws", "sites", "undefended",
]  # fmt: skip

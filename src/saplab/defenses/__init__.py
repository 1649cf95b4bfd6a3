"""What a defender may do: defences, the sites they act on, defended networks and their predictions."""

from saplab.defenses.activations import SAP, Dropout, RandomlyScaledActivations, RandomNoisyActivations
from saplab.defenses.checkpointing import same_draws
from saplab.defenses.defended import Defended, defend, is_random, sites
from saplab.defenses.prediction import Prediction, predict, predict_with_votes
from saplab.defenses.weights import (
    DeterministicWeightPruning,
    RandomlyScaledWeights,
    RandomNoisyWeights,
    StochasticWeightPruning,
)

__all__ = [
    "SAP",
    "Defended",
    "DeterministicWeightPruning",
    "Dropout",
    "Prediction",
    "RandomNoisyActivations",
    "RandomNoisyWeights",
    "RandomlyScaledActivations",
    "RandomlyScaledWeights",
    "StochasticWeightPruning",
    "defend",
    "is_random",
    "predict",
    "predict_with_votes",
    "same_draws",
    "sites",
]

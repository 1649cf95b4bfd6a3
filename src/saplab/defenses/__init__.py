"""What a defender may do: defences, the sites they act on, defended networks and their predictions."""

from saplab.defenses.activations import SAP
from saplab.defenses.defended import Defended, defend, is_random, sites
from saplab.defenses.prediction import Prediction, predict, predict_with_votes

__all__ = ["SAP", "Defended", "Prediction", "defend", "is_random", "predict", "predict_with_votes", "sites"]

"""Statistics of stored predictions and scores: arrays in, numbers out."""

from saplab.metrics.accuracy import accuracy, correct, pass_shares, single_pass_accuracy
from saplab.metrics.calibration import calibration
from saplab.metrics.counting import Counts, count
from saplab.metrics.intervals import Interval, mean_interval, paired_difference
from saplab.metrics.minimax import game_value
from saplab.metrics.seeds import OverSeeds, over_seeds
from saplab.metrics.worst_case import worst_case

__all__ = [
    "Counts", "Interval", "OverSeeds", "accuracy", "calibration", "correct", "count", "game_value", "mean_interval",
    "over_seeds", "paired_difference", "pass_shares", "single_pass_accuracy", "worst_case",
]  # fmt: skip

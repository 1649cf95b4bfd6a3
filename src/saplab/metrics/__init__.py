"""Numbers computed from stored predictions, never by running a network."""

from saplab.metrics.accuracy import accuracy, correct, pass_shares, single_pass_accuracy
from saplab.metrics.calibration import Calibration, Reliability, bin_confidences, calibration, reliability
from saplab.metrics.counting import Counts, count, right_by_majority, right_in_all, right_in_any
from saplab.metrics.intervals import Interval, mcnemar, mean_interval, paired_difference
from saplab.metrics.minimax import Game, game_value
from saplab.metrics.seeds import OverSeeds, over_seeds
from saplab.metrics.worst_case import worst_case

__all__ = [
    "Calibration",
    "Counts",
    "Game",
    "Interval",
    "OverSeeds",
    "Reliability",
    "accuracy",
    "bin_confidences",
    "calibration",
    "correct",
    "count",
    "game_value",
    "mcnemar",
    "mean_interval",
    "over_seeds",
    "paired_difference",
    "pass_shares",
    "reliability",
    "right_by_majority",
    "right_in_all",
    "right_in_any",
    "single_pass_accuracy",
    "worst_case",
]

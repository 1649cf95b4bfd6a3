"""Numbers computed from stored predictions, never by running a network."""

from saplab.measures.accuracy import accuracy, correct, pass_shares, single_pass_accuracy
from saplab.measures.calibration import Calibration, Reliability, bin_confidences, calibration, reliability
from saplab.measures.checks import Check
from saplab.measures.counting import Counts, count, right_by_majority, right_in_all, right_in_any
from saplab.measures.evidence import Evidence
from saplab.measures.game import Game, game_value
from saplab.measures.intervals import Interval, mcnemar, mean_interval, paired_difference
from saplab.measures.seeds import OverSeeds, over_seeds
from saplab.measures.verdict import Robust, Verdict, verdict
from saplab.measures.worst_case import worst_case

__all__ = [
    "Calibration",
    "Check",
    "Counts",
    "Evidence",
    "Game",
    "Interval",
    "OverSeeds",
    "Reliability",
    "Robust",
    "Verdict",
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
    "verdict",
    "worst_case",
]

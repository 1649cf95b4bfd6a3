"""Numbers computed from stored predictions, never by running a network."""

from saplab.measures.accuracy import (
    Interval,
    accuracy,
    correct,
    mean_interval,
    paired_difference,
    pass_shares,
    single_pass_accuracy,
)

__all__ = [
    "Interval",
    "accuracy",
    "correct",
    "mean_interval",
    "paired_difference",
    "pass_shares",
    "single_pass_accuracy",
]

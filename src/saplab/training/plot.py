"""The history of a classifier's training as a chart: the loss above, accuracies below, over the epochs."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

from collections.abc import Sequence
from typing import Final

import altair as alt

from saplab.learning.plot import line_chart
from saplab.training.records import EpochRecord

_LABELS: Final = {
    "train_accuracy": "training images, as augmented",
    "test_accuracy": "test images",
    "held_out_accuracy": "held-out images",
    "robust_accuracy": "held-out images under attack",
}


def history_chart(history: Sequence[EpochRecord], title: str = "") -> alt.VConcatChart:
    """Draw the mean loss of each epoch's training images, and the accuracies (%) that were measured.

    Raises ValueError without an epoch.
    """
    if not history:
        raise ValueError("`history` must hold at least one epoch, got none")
    epoch = alt.X("x:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
    losses = {"training loss": [(record.epoch, record.train_loss) for record in history]}
    loss = line_chart(losses, epoch, alt.Y("y:Q", title="training loss")).properties(height=160)
    measured = {
        label: [(record.epoch, 100 * value) for record in history if (value := getattr(record, name)) is not None]
        for name, label in _LABELS.items()
    }
    accuracy = line_chart(measured, epoch, alt.Y("y:Q", title="accuracy in %", scale=alt.Scale(zero=False)))
    return alt.vconcat(loss, accuracy, title=title).configure_legend(orient="bottom", columns=2)

"""A run's history as a chart: loss above, accuracies below, over the epochs."""
# mypy: disable-error-code="no-any-return, no-untyped-call"
# Altair's encode() has no types.

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from saplab.learning.plot import save_plot
from saplab.training.checkpoint import EpochRecord

_LABELS = {  # Okabe & Ito's colour-blind-safe palette, darkened
    "train_accuracy": ("training images, as augmented", "#0072b2"),
    "test_accuracy": ("test images", "#d55e00"),
    "held_out_accuracy": ("held-out images", "#00805c"),
    "robust_accuracy": ("held-out images under attack", "#a64d87"),
}


def history_chart(history: Sequence[EpochRecord], title: str = "") -> alt.VConcatChart:
    """Draw the mean loss of each epoch's training images, and the accuracies (%) that were measured.

    Raises:
        ValueError: for no epoch.
    """
    if not history:
        raise ValueError("`history` must hold at least one epoch, got none")
    rows = [_row(record, field) for record in history for field in _LABELS if getattr(record, field) is not None]
    shown = [label for label in _LABELS.values() if any(row["of"] == label[0] for row in rows)]
    losses = [{"epoch": record.epoch, "loss": record.train_loss} for record in history]
    epoch = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
    loss = _lines(losses).encode(epoch, alt.Y("loss:Q", title="training loss")).properties(width=560, height=160)
    names, colours = [name for name, _ in shown], [colour for _, colour in shown]
    colour = alt.Color("of:N", title=None, sort=names, scale=alt.Scale(domain=names, range=colours))
    percent = alt.Y("accuracy:Q", title="accuracy in %", scale=alt.Scale(zero=False))
    accuracy = _lines(rows).encode(epoch, percent, colour).properties(width=560, height=260)
    return alt.vconcat(loss, accuracy, title=title).configure_legend(orient="bottom", columns=2)


def save_plots(history: Sequence[EpochRecord], out: Path, title: str = "") -> None:
    """Write ``history.svg`` and ``history.png``.

    Raises:
        OSError: a file could not be written.
    """
    save_plot(history_chart(history, title), out)


def _row(record: EpochRecord, field: str) -> dict[str, Any]:
    return {"epoch": record.epoch, "accuracy": 100 * getattr(record, field), "of": _LABELS[field][0]}


def _lines(rows: Sequence[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(rows))).mark_line(point=alt.OverlayMarkDef(size=12))

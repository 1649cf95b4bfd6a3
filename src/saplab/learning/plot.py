"""Charts of a run's history: one line for each series of numbers."""
# mypy: disable-error-code="no-any-return, no-untyped-call"
# Altair's encode() has no types.

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import altair as alt

from saplab.system.files import write_atomically

COLOURS: Final = ("#0072b2", "#d55e00", "#00805c", "#a64d87")  # Okabe & Ito's colour-blind-safe palette, darkened
Series = Mapping[str, Sequence[tuple[float, float]]]


def line_chart(series: Series, x: alt.X, y: alt.Y) -> alt.Chart:
    """Draw a line with points for each series, coloured in turn; series without points are left out.

    Args:
        series: the points (x, y) by their label in the legend; a single label gets no legend.
        x, y: encodings of the fields ``x`` and ``y``.
    """
    shown = {label: colour for (label, points), colour in zip(series.items(), COLOURS, strict=False) if points}
    scale = alt.Scale(domain=list(shown), range=list(shown.values()))
    legend = alt.Legend() if len(series) > 1 else None
    colour = alt.Color("of:N", title=None, sort=list(shown), scale=scale, legend=legend)
    lines = alt.Chart(as_data(series)).mark_line(point=alt.OverlayMarkDef(size=15))
    return lines.encode(x, y, colour).properties(width=560, height=260)


def as_data(series: Series) -> alt.Data:
    """Return the points of all series as rows with the fields ``x``, ``y`` and ``of``."""
    return alt.Data(values=[{"x": x, "y": y, "of": label} for label, points in series.items() for x, y in points])


def save_plot(chart: alt.TopLevelMixin, out: Path) -> None:
    """Write the chart as ``history.svg`` and ``history.png`` into a run's folder.

    Raises:
        OSError: a file could not be written.
    """
    text, picture = io.StringIO(), io.BytesIO()
    chart.save(text, format="svg")
    chart.save(picture, format="png", ppi=150)
    write_atomically(out / "history.svg", text.getvalue().encode())
    write_atomically(out / "history.png", picture.getvalue())

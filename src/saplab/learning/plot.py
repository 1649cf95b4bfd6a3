"""Charts of a run's history: one line for each series of numbers."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt

from saplab.report.charts import PAPER, to_bytes
from saplab.system.folder import write_files

Series = Mapping[str, Sequence[tuple[float, float]]]


def line_chart(series: Series, x: alt.X, y: alt.Y) -> alt.Chart:
    """Draw a line with points for each series, coloured in turn; series without points are left out.

    `series` holds the points (x, y) by their label in the legend; a single label gets no legend. `x` and `y` encode the
    fields ``x`` and ``y``.
    """
    shown = {label: colour for (label, points), colour in zip(series.items(), PAPER.curves, strict=False) if points}
    scale = alt.Scale(domain=list(shown), range=list(shown.values()))
    legend = alt.Legend() if len(series) > 1 else None
    colour = alt.Color("of:N", title=None, sort=list(shown), scale=scale, legend=legend)
    lines = alt.Chart(as_data(series)).mark_line(point=alt.OverlayMarkDef(size=15))
    return lines.encode(x, y, colour).properties(width=560, height=260)


def as_data(series: Series) -> alt.Data:
    """Return the points of all series as rows with the fields ``x``, ``y`` and ``of``."""
    return alt.Data(values=[{"x": x, "y": y, "of": label} for label, points in series.items() for x, y in points])


def save_plot(chart: alt.TopLevelMixin, out: Path) -> None:
    """Write the chart as ``history.svg`` and ``history.png`` into a run's folder."""
    write_files(out, {f"history.{kind}": to_bytes(chart, kind) for kind in ("svg", "png")})

"""A training run's chart as files."""

import io
from pathlib import Path

import altair as alt

from saplab.system.files import write_atomically


def save_plot(chart: alt.TopLevelMixin, out: Path) -> None:
    """Write a run's chart as ``history.svg`` and ``history.png`` into its folder.

    Raises:
        OSError: a file could not be written.
    """
    text, picture = io.StringIO(), io.BytesIO()
    chart.save(text, format="svg")
    chart.save(picture, format="png", ppi=150)
    write_atomically(out / "history.svg", text.getvalue().encode())
    write_atomically(out / "history.png", picture.getvalue())

"""An agent's history as a chart: its points over the steps of its training."""
# mypy: disable-error-code="no-any-return, no-untyped-call"
# Altair's encode() has no types.

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import altair as alt

from saplab.learning.plot import save_plot
from saplab.rl.checkpoint import AgentRecord

_LABELS: Final = {  # Okabe & Ito's colour-blind-safe palette, darkened
    "mean of the evaluation's games": "#d55e00",
    "mean of the games of training": "#0072b2",
}
_EVALUATED, _TRAINED = _LABELS


def history_chart(history: Sequence[AgentRecord], title: str = "") -> alt.LayerChart:
    """Draw the points of the evaluations, each game a dot and their mean a line, and the mean of training's own games.

    Raises:
        ValueError: no record, or none in which a game ended.
    """
    means, games = list(_means(history)), list(_games(history))
    if not means:
        raise ValueError("`history` must hold a record with a game that ended")
    shown = [label for label in _LABELS if any(row["of"] == label for row in means)]
    colours = alt.Scale(domain=shown, range=[_LABELS[label] for label in shown])
    base = alt.Chart().encode(
        alt.X("step:Q", title="agent steps", axis=alt.Axis(format="~s", tickCount=8)),
        alt.Y("points:Q", title="points"),
        alt.Color("of:N", title=None, sort=shown, scale=colours),
    )
    lines = base.properties(data=alt.Data(values=means)).mark_line(point=alt.OverlayMarkDef(size=20))
    dots = base.properties(data=alt.Data(values=games)).mark_point(filled=True, size=12, opacity=0.35)
    layers = alt.layer(*([dots] if games else []), lines).properties(width=560, height=280, title=title)
    return layers.configure_legend(orient="bottom", labelLimit=320, symbolOpacity=1)


def save_plots(history: Sequence[AgentRecord], out: Path, title: str = "") -> None:
    """Write ``history.svg`` and ``history.png``.

    Raises:
        ValueError: as `history_chart`.
        OSError: a file could not be written.
    """
    save_plot(history_chart(history, title), out)


def _means(history: Sequence[AgentRecord]) -> Iterator[dict[str, Any]]:
    for record in history:
        if record.evaluation:
            yield {"step": record.step, "points": sum(record.evaluation) / len(record.evaluation), "of": _EVALUATED}
        if record.score is not None:
            yield {"step": record.step, "points": record.score, "of": _TRAINED}


def _games(history: Sequence[AgentRecord]) -> Iterator[dict[str, Any]]:
    for record in history:
        yield from ({"step": record.step, "points": points, "of": _EVALUATED} for points in record.evaluation)

"""An agent's history as a chart: its points over the steps of its training."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

from collections.abc import Sequence
from statistics import fmean
from typing import Final

import altair as alt

from saplab.learning.plot import as_data, line_chart
from saplab.rl.records import AgentRecord

_EVALUATED: Final = "mean of the evaluation's games"


def history_chart(history: Sequence[AgentRecord], title: str = "") -> alt.LayerChart:
    """Draw the points of the evaluations, each game a dot and their mean a line, and the mean of training's own games.

    Raises ValueError unless a record has a game that ended.
    """
    means = {
        "mean of the games of training": [(one.step, one.score) for one in history if one.score is not None],
        _EVALUATED: [(one.step, fmean(one.evaluation)) for one in history if one.evaluation],
    }
    if not any(means.values()):
        raise ValueError("`history` must hold a record with a game that ended")
    steps = alt.X("x:Q", title="agent steps", axis=alt.Axis(format="~s", tickCount=8))
    lines = line_chart(means, steps, alt.Y("y:Q", title="points"))
    games = {_EVALUATED: [(record.step, points) for record in history for points in record.evaluation]}
    dots = lines.properties(data=as_data(games)).mark_point(filled=True, size=12, opacity=0.35)
    chart = alt.layer(*([dots] if games[_EVALUATED] else []), lines).properties(title=title)
    return chart.configure_legend(orient="bottom", labelLimit=320, symbolOpacity=1)

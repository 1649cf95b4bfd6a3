"""The minimax game: its payoff matrix, and what both players play."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from saplab.metrics.minimax import Game
from saplab.report.charts import PAPER, Theme, configured


def game_chart(game: Game, theme: Theme = PAPER) -> alt.VConcatChart:
    """Draw a game: the payoff (accuracy, %) of each defender against each adversary, and both mixtures beside it."""
    rows, columns = list(game.defenders), list(game.adversaries)
    cells = [
        {"defender": row, "adversary": column, "percent": 100 * float(game.payoff[i][j])}
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
    x = alt.X("adversary:N", sort=columns, title="adversary", axis=alt.Axis(labelAngle=-40, labelLimit=0))
    y = alt.Y("defender:N", sort=rows, title="defender", axis=alt.Axis(labelLimit=0))
    shade = alt.Scale(domain=[0, 100], range=[0.05, 0.75])
    base = alt.Chart(alt.Data(values=cells)).encode(x=x, y=y)
    heat = base.mark_rect(color=theme.curves[0]).encode(
        opacity=alt.Opacity("percent:Q", scale=shade, legend=None),
        tooltip=["defender:N", "adversary:N", alt.Tooltip("percent:Q", format=".1f")],
    )
    text = base.mark_text(color=theme.ink, fontSize=11).encode(text=alt.Text("percent:Q", format=".0f"))
    width, height = 34 * len(columns), 34 * len(rows)
    matrix = alt.layer(heat, text).properties(width=width, height=height)
    top = _mixture(columns, game.adversary, "adversary", theme).properties(width=width, height=60)
    side = _mixture(rows, game.defender, "defender", theme).properties(width=60, height=height)
    return configured(alt.vconcat(top, alt.hconcat(matrix, side, spacing=8), spacing=8), theme)


def _mixture(names: Sequence[str], weights: Iterable[float], who: str, theme: Theme) -> alt.Chart:
    """Draw how often each pure strategy is played at the equilibrium: columns over the matrix, or bars beside it."""
    values = [{who: name, "weight": 100 * float(weight)} for name, weight in zip(names, weights, strict=True)]
    scale, axis = alt.Scale(domain=[0, 100]), alt.Axis(values=[0, 50, 100])
    weight: dict[str, Any] = {"title": "played, %", "scale": scale, "axis": axis}
    own: dict[str, Any] = {"sort": list(names), "axis": None}
    bars = alt.Chart(alt.Data(values=values)).mark_bar(color=theme.curves[2])
    tips = [f"{who}:N", alt.Tooltip("weight:Q", format=".1f")]
    if who == "adversary":
        return bars.encode(x=alt.X("adversary:N", **own), y=alt.Y("weight:Q", **weight), tooltip=tips)
    return bars.encode(y=alt.Y("defender:N", **own), x=alt.X("weight:Q", **weight), tooltip=tips)

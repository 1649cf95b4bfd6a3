"""Mean points in Atari games against strength."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

import altair as alt

from saplab.report.charts import PAPER, SHAPES, Records, Theme, configured, in_turn


def points_chart(records: Records, theme: Theme = PAPER) -> alt.FacetChart:
    """Draw mean points against strength λ with 95 % intervals, a panel with a scale of its own for each game.

    A record for each game, agent and strength has ``game``, ``agent``, ``strength``, ``points``, and ``points_low`` and
    ``points_high``, None where one game says nothing of the spread. Raises ValueError without records.
    """
    if not records:
        raise ValueError("`records` must hold at least one row, got none")
    games, agents = (list(dict.fromkeys(record[name] for record in records)) for name in ("game", "agent"))
    alone = len(games) == 1
    legend = alt.Legend(
        title=None, orient="bottom", columns=1 if alone else 2, labelLimit=480, symbolOpacity=1,
        columnPadding=40,  # for fonts that are wider than the one that was measured
    )  # fmt: skip
    strengths = sorted({record["strength"] for record in records})
    axis = alt.Axis(values=strengths, labelExpr="toString(datum.value)")
    scale = alt.Scale(type="symlog", constant=1, domain=[strengths[0], strengths[-1]], nice=False, padding=6)
    base = alt.Chart().encode(
        x=alt.X("strength:Q", title="strength λ", axis=axis, scale=scale),
        color=alt.Color("agent:N", scale=in_turn(theme.curves, agents), legend=legend),
    )
    points = alt.Y("points:Q", title="points", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    bars = base.mark_rule(strokeWidth=1.6, opacity=0.6).encode(y=alt.Y("points_low:Q"), y2="points_high:Q")
    lines = base.mark_line(strokeWidth=2).encode(y=points)
    dots = base.mark_point(filled=True, size=60, opacity=1)
    dots = dots.encode(y=points, shape=alt.Shape("agent:N", scale=in_turn(SHAPES, agents), legend=legend))
    header = alt.Header(title=None, labelColor=theme.ink, labelFontSize=13, labelFontWeight="bold")
    layers = alt.layer(bars, lines, dots).properties(width=480 if alone else 210, height=280 if alone else 150)
    data = alt.Data(values=list(records))
    panels = layers.facet(alt.Facet("game:N", sort=games, header=header), columns=3, data=data)
    panels = panels.properties(bounds="flush", spacing={"row": 90, "column": 80})
    return configured(panels.resolve_scale(y="independent").resolve_axis(x="independent"), theme)

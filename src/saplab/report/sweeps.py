"""Accuracy against a setting, such as the number of Monte Carlo samples."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

import altair as alt

from saplab.report.charts import PAGE, PAPER, SHAPES, Records, Theme, configured, in_turn


def against_chart(records: Records, what: str, theme: Theme = PAPER, symbol: str = "λ") -> alt.TopLevelMixin:
    """Draw accuracy (%) against a setting, a line and a 95 % band for each strength, a panel for each series.

    A record for each value of the setting and strength has ``value`` (> 0), ``strength``, ``percent``, ``from``,
    ``to``, and ``series`` where there are several. `what` is the title of the setting's axis, which is logarithmic.
    Raises ValueError without records.
    """
    if not records:
        raise ValueError("`records` must hold at least one point, got none")
    layers, data = _layers(records, what, theme, symbol), alt.Data(values=list(records))
    series = list(dict.fromkeys(record.get("series", "") for record in records))
    if len(series) == 1:
        single = layers.properties(width="container" if theme is PAGE else 520, height=260, data=data)
        return configured(single, theme)
    header = alt.Header(title=None, labelColor=theme.ink, labelFontSize=13)
    column = alt.Column("series:N", header=header, sort=series)
    panels = layers.properties(width=300, height=260).facet(column=column, data=data)
    return configured(panels, theme)


def _layers(records: Records, what: str, theme: Theme, symbol: str) -> alt.LayerChart:
    values, strengths = (sorted({record[name] for record in records}) for name in ("value", "strength"))
    axis = alt.Axis(values=values, labelExpr="format(datum.value, ',~r')", labelOverlap=True)
    scale = alt.Scale(type="log", domain=[values[0], values[-1]], nice=False)
    legend = alt.Legend(title=symbol, orient="right", symbolOpacity=1)
    base = alt.Chart().encode(
        x=alt.X("value:Q", title=what, axis=axis, scale=scale),
        color=alt.Color("strength:N", scale=in_turn(theme.curves, strengths), legend=legend),
    )
    percent = alt.Scale(domain=[0, 100])
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("from:Q", title="accuracy (%)", scale=percent), y2="to:Q")
    numbers = (alt.Tooltip(f"{name}:Q", format=".1f") for name in ("percent", "from", "to"))
    tips = [alt.Tooltip("value:Q", title=what), "strength:N", *numbers]
    accuracy = alt.Y("percent:Q", scale=percent)
    line = base.mark_line(strokeWidth=2).encode(y=accuracy)
    shape = alt.Shape("strength:N", scale=in_turn(SHAPES, strengths), legend=legend)
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=accuracy, shape=shape, tooltip=tips)
    return alt.LayerChart(layer=[band, line, points])

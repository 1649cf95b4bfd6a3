"""Certified accuracy against radius, beside what attacks leave."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

import altair as alt

from saplab.report.charts import PAPER, Records, Theme, configured, in_turn

_CERTIFIED, _LEFT = "certified: at least", "under attack: at most"


def certified_chart(
    certified: Records, empirical: Records = (), theme: Theme = PAPER, title: str = ""
) -> alt.LayerChart:
    """Draw certified accuracy (%) against the Euclidean radius as steps with a 95 % band, and what attacks leave.

    A record for each radius, of either kind, has ``radius`` (in the unit of the images), ``percent``, ``low`` and
    ``high``. The true accuracy of the smoothed network lies between the two curves, but for their intervals. Raises
    ValueError without certified records.
    """
    if not certified:
        raise ValueError("`certified` must hold at least one radius, got none")
    values = [
        {**record, "kind": kind}
        for kind, records in ((_CERTIFIED, certified), (_LEFT, empirical))
        for record in records
    ]
    kinds = [_CERTIFIED, _LEFT] if empirical else [_CERTIFIED]
    legend = alt.Legend(title=None, orient="bottom", symbolOpacity=1)
    base = alt.Chart().encode(
        x=alt.X("radius:Q", title="radius in the Euclidean norm, unit of the images", scale=alt.Scale(nice=False)),
        color=alt.Color("kind:N", scale=in_turn(theme.curves, kinds), legend=legend),
    )
    tips = [alt.Tooltip("kind:N"), alt.Tooltip("radius:Q", format=".3f")]
    tips += [alt.Tooltip(f"{name}:Q", format=".1f") for name in ("percent", "low", "high")]
    percent = alt.Y("percent:Q", title="accuracy (%)", scale=alt.Scale(domain=[0, 100]))
    proven, left = (base.transform_filter(alt.datum.kind == kind) for kind in (_CERTIFIED, _LEFT))
    layers = [
        proven.mark_area(opacity=0.16, interpolate="step-before").encode(y=alt.Y("low:Q"), y2="high:Q"),
        proven.mark_line(strokeWidth=2, interpolate="step-before").encode(y=percent, tooltip=tips),
    ]
    if empirical:
        layers += [
            left.mark_rule(strokeWidth=1.6, opacity=0.6).encode(y="low:Q", y2="high:Q"),
            left.mark_line(strokeWidth=2).encode(y=percent),
            left.mark_point(filled=True, size=60, opacity=1).encode(y=percent, tooltip=tips),
        ]
    chart = alt.LayerChart(data=alt.Data(values=values), layer=layers).properties(width=520, height=320)
    return configured(chart.properties(title=title) if title else chart, theme)

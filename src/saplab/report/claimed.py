"""What is claimed against what was found."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

import altair as alt

from saplab.report.charts import PAPER, SHAPES, Records, Theme, configured, in_turn


def claimed_chart(records: Records, theme: Theme = PAPER) -> alt.LayerChart:
    """Draw found accuracy (%) against the claimed one; on the diagonal both are the same, below it less was found.

    A record for each point has ``entry``, ``ball`` (norm and radius in words), ``claimed``, ``found``, ``low`` and
    ``high`` (None without an interval), and ``kind`` (how it was found). Raises ValueError without records.
    """
    if not records:
        raise ValueError("`records` must hold at least one point, got none")
    kinds = list(dict.fromkeys(record["kind"] for record in records))
    share = alt.Scale(domain=[0, 100], nice=False)
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=500, symbolOpacity=1)
    base = alt.Chart().encode(
        x=alt.X("claimed:Q", title="claimed accuracy (%)", scale=share),
        color=alt.Color("kind:N", scale=in_turn(theme.curves, kinds), legend=legend),
    )
    found = alt.Y("found:Q", title="found accuracy (%)", scale=share)
    tips = [alt.Tooltip(f"{name}:N") for name in ("entry", "ball", "kind")]
    tips += [alt.Tooltip(f"{name}:Q", format=".1f") for name in ("claimed", "found")]
    shape = alt.Shape("kind:N", scale=in_turn(SHAPES, kinds), legend=legend)
    ends = {"x": alt.datum(0), "y": alt.datum(0), "x2": alt.X2Datum(100), "y2": alt.Y2Datum(100)}
    names = base.transform_filter(alt.datum.low != None).encode(y=found, text="entry:N", color=alt.value(theme.ink))  # noqa: E711
    layers = [
        alt.Chart().mark_rule(color=theme.ink, strokeDash=[4, 4], opacity=0.6).encode(**ends),
        base.mark_rule(strokeWidth=1.6, opacity=0.6).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(y=found, shape=shape, tooltip=tips),
        names.mark_text(align="left", dx=8, dy=-4, fontSize=11),
    ]
    chart = alt.LayerChart(data=alt.Data(values=list(records)), layer=layers).properties(width=420, height=420)
    return configured(chart, theme)

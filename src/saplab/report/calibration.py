"""Reliability diagrams: accuracy against confidence."""
# mypy: disable-error-code="no-any-return, no-untyped-call"

from typing import Any

import altair as alt

from saplab.report.charts import PAGE, PAPER, Records, Theme, configured

_PANEL = 150
_LOW = 0.22  # a bar below has its number above it
_SHARES = alt.Scale(domain=[0, 1], nice=False)
_QUARTERS = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1])


def reliability_chart(records: Records, theme: Theme = PAPER, symbol: str = "λ") -> alt.FacetChart:
    """Draw accuracy against confidence, a panel for each strength, by its `symbol`.

    A record for each curve, strength and bin that holds an image has ``curve``, ``strength``, ``low``, ``high`` (the
    bin's edges), ``confidence``, ``accuracy`` (means in it), ``images`` and ``share`` of all images.

    Bars are fainter where they hold few images, whose number stands in them or above. On the page's theme a menu
    chooses the curve; elsewhere each has a row of panels. Raises ValueError without records.
    """
    if not records:
        raise ValueError("`records` must hold at least one bin, got none")
    labels = list(dict.fromkeys(record["curve"] for record in records))
    layers, data = _layers(theme), alt.Data(values=list(records))
    header = alt.Header(title=None, labelExpr=f"'{symbol} = ' + datum.value", labelColor=theme.ink, labelFontSize=12)
    if theme is not PAGE:
        name = alt.Header(
            title=None, labelExpr="split(datum.value, ': ')", labelAngle=0, labelAlign="left", labelLimit=0,
            labelColor=theme.ink, labelFontSize=12,
        )  # fmt: skip
        rows = alt.Row("curve:N", sort=labels, header=name)
        return configured(layers.facet(row=rows, column=alt.Column("strength:O", header=header), data=data), theme)
    chart = layers.facet(alt.Facet("strength:O", header=header), columns=3, data=data)
    chart = chart.resolve_axis(x="independent", y="independent").transform_filter("datum.curve == diagram")
    menu = alt.param(name="diagram", value=labels[0], bind=alt.binding_select(options=labels, name="Curve: "))
    return configured(chart.add_params(menu), theme)


def _layers(theme: Theme) -> alt.LayerChart:
    base = alt.Chart().encode(x=_confidence("low:Q"))
    means = (alt.Tooltip(f"{name}:Q", format=".3f") for name in ("low", "high", "confidence", "accuracy"))
    bars = base.mark_bar(color=theme.curves[0]).encode(
        x2="high:Q",
        y2=alt.Y2Datum(0),
        y=alt.Y("accuracy:Q", title="accuracy", scale=_SHARES, axis=_QUARTERS),
        opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 0.3], range=[0.2, 0.6], clamp=True), legend=None),
        tooltip=[alt.Tooltip("images:Q"), *means],
    )
    points = base.mark_point(color=theme.curves[1], filled=True, size=28, opacity=1)
    points = points.encode(x=_confidence("confidence:Q"), y="accuracy:Q")
    ends: dict[str, Any] = {"x": alt.datum(0), "y": alt.datum(0), "x2": alt.X2Datum(1), "y2": alt.Y2Datum(1)}
    diagonal = alt.Chart().mark_rule(color=theme.ink, strokeDash=[4, 4]).encode(**ends)
    foot = f"datum.accuracy < {_LOW} ? datum.accuracy : 0"
    counts = base.transform_calculate(middle="(datum.low + datum.high) / 2", foot=foot)
    counts = counts.mark_text(angle=270, align="left", dx=5, fontSize=9, color=theme.ink)
    counts = counts.encode(x="middle:Q", y=alt.Y("foot:Q", title="accuracy"), text="images:Q")
    return alt.LayerChart(layer=[bars, points, diagonal, counts]).properties(width=_PANEL, height=_PANEL)


def _confidence(field: str) -> alt.X:
    return alt.X(field, title="confidence", scale=_SHARES, axis=_QUARTERS)

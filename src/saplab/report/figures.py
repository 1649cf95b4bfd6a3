"""The report's further charts: reliability diagrams, accuracy against a setting, the game, and points in games."""
# mypy: disable-error-code="no-any-return, no-untyped-call"
# Altair's encode() has no types.

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from saplab.metrics.minimax import Game
from saplab.report.charts import PAGE, PAPER, SHAPES, Theme, configured, in_turn

_PANEL = 150
_LOW = 0.22  # a bar below has its number above it


def reliability_chart(records: Sequence[dict[str, Any]], theme: Theme = PAPER) -> alt.FacetChart:
    """Draw accuracy against confidence, a panel for each strength λ; bars fainter where they hold few images,
    whose number stands in them, or above the lowest.

    Args:
        records: one for each curve, strength and bin that holds an image: ``curve``, ``strength``, ``low``, ``high``
            (the bin's edges), ``confidence``, ``accuracy`` (means in it), ``images`` and ``share`` of all images.
        theme: its colours; on the page's a menu chooses the curve, elsewhere each has a row of panels.

    Raises:
        ValueError: for no records.
    """
    if not records:
        raise ValueError("`records` must hold at least one bin, got none")
    labels = list(dict.fromkeys(record["curve"] for record in records))
    base = alt.Chart().encode(x=_share_axis("low:Q", "confidence"))
    bars = base.mark_bar(color=theme.curves[0]).encode(
        x2="high:Q",
        y2=alt.Y2Datum(0),
        y=_share_axis("accuracy:Q", "accuracy"),
        opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 0.3], range=[0.2, 0.6], clamp=True), legend=None),
        tooltip=[
            alt.Tooltip("images:Q"),
            *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("low", "high", "confidence", "accuracy")),
        ],
    )
    points = base.mark_point(color=theme.curves[1], filled=True, size=28, opacity=1)
    points = points.encode(x=_share_axis("confidence:Q", "confidence"), y="accuracy:Q")
    ends: dict[str, Any] = {"x": alt.datum(0), "y": alt.datum(0), "x2": alt.X2Datum(1), "y2": alt.Y2Datum(1)}
    diagonal = alt.Chart().mark_rule(color=theme.ink, strokeDash=[4, 4]).encode(**ends)
    counts = base.transform_calculate(
        middle="(datum.low + datum.high) / 2", foot=f"datum.accuracy < {_LOW} ? datum.accuracy : 0"
    )
    counts = counts.mark_text(angle=270, align="left", dx=5, fontSize=9, color=theme.ink)
    counts = counts.encode(x="middle:Q", y=alt.Y("foot:Q", title="accuracy"), text="images:Q")
    layers = alt.layer(bars, points, diagonal, counts).properties(width=_PANEL, height=_PANEL)
    header = alt.Header(title=None, labelExpr="'λ = ' + datum.value", labelColor=theme.ink, labelFontSize=12)
    data = alt.Data(values=list(records))
    if theme is not PAGE:
        rows = alt.Row("curve:N", sort=labels, header=alt.Header(title=None, labelColor=theme.ink, labelFontSize=12))
        return configured(layers.facet(row=rows, column=alt.Column("strength:O", header=header), data=data), theme)
    chart = layers.facet(alt.Facet("strength:O", header=header), columns=4, data=data)
    chart = chart.transform_filter("datum.curve == diagram")
    menu = alt.param(name="diagram", value=labels[0], bind=alt.binding_select(options=labels, name="Curve: "))
    return configured(chart.add_params(menu), theme)


def _share_axis(field: str, title: str) -> Any:
    kind = alt.X if title == "confidence" else alt.Y
    return kind(
        field, title=title, scale=alt.Scale(domain=[0, 1], nice=False), axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1])
    )


def against_chart(records: Sequence[dict[str, Any]], what: str, theme: Theme = PAPER) -> alt.TopLevelMixin:
    """Draw accuracy (%) against a setting, a line and a 95 % band for each strength λ, a panel for each series.

    Args:
        records: one for each value of the setting and strength: ``value`` (> 0), ``strength``, ``percent``, ``from``,
            ``to``, and ``series`` where there are several.
        what: title of the setting's axis, which is logarithmic.
        theme: its colours.

    Raises:
        ValueError: for no records.
    """
    if not records:
        raise ValueError("`records` must hold at least one point, got none")
    values = sorted({record["value"] for record in records})
    strengths = sorted({record["strength"] for record in records})
    axis = alt.Axis(values=values, format="~d", labelOverlap=True)
    scale = alt.Scale(type="log", domain=[values[0], values[-1]], nice=False)
    legend = alt.Legend(title="λ", orient="right", symbolOpacity=1)
    base = alt.Chart().encode(
        x=alt.X("value:Q", title=what, axis=axis, scale=scale),
        color=alt.Color("strength:N", scale=in_turn(theme.curves, strengths), legend=legend),
    )
    percent = alt.Scale(domain=[0, 100])
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("from:Q", title="accuracy (%)", scale=percent), y2="to:Q")
    names = ("percent", "from", "to")
    tips = [
        alt.Tooltip("value:Q", title=what),
        "strength:N",
        *(alt.Tooltip(f"{name}:Q", format=".1f") for name in names),
    ]
    accuracy = alt.Y("percent:Q", scale=percent)
    line = base.mark_line(strokeWidth=2).encode(y=accuracy)
    points = base.mark_point(filled=True, size=60, opacity=1)
    shape = alt.Shape("strength:N", scale=in_turn(SHAPES, strengths), legend=legend)
    points = points.encode(y=accuracy, shape=shape, tooltip=tips)
    data = alt.Data(values=list(records))
    layers = alt.layer(band, line, points)
    series = list(dict.fromkeys(record.get("series", "") for record in records))
    if len(series) == 1:
        single = layers.properties(width="container" if theme is PAGE else 520, height=260, data=data)
        return configured(single, theme)
    header = alt.Header(title=None, labelColor=theme.ink, labelFontSize=13)
    column = alt.Column("series:N", header=header, sort=series)
    panels = layers.properties(width=300, height=260).facet(column=column, data=data)
    return configured(panels, theme)


def points_chart(records: Sequence[dict[str, Any]], theme: Theme = PAPER) -> alt.FacetChart:
    """Draw mean points against strength λ with 95 % intervals, a panel with a scale of its own for each game.

    Args:
        records: one for each game, agent and strength: ``game``, ``agent``, ``strength``, ``points``, and
            ``points_low`` and ``points_high``, None where one game says nothing of the spread.
        theme: its colours.

    Raises:
        ValueError: for no records.
    """
    if not records:
        raise ValueError("`records` must hold at least one row, got none")
    games, agents = (list(dict.fromkeys(record[name] for record in records)) for name in ("game", "agent"))
    legend = alt.Legend(title=None, orient="bottom", columns=2, labelLimit=320, symbolOpacity=1)
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
    layers = alt.layer(bars, lines, dots).properties(width=_PANEL + 60, height=_PANEL)
    panels = layers.facet(
        alt.Facet("game:N", sort=games, header=header), columns=3, data=alt.Data(values=list(records))
    )
    panels = panels.properties(bounds="flush", spacing={"row": 90, "column": 80})
    return configured(panels.resolve_scale(y="independent").resolve_axis(x="independent"), theme)


def game_chart(game: Game, theme: Theme = PAPER) -> alt.VConcatChart:
    """Draw a game: the payoff (accuracy, %) of each defender against each adversary, and both mixtures beside it.

    Args:
        game: as `saplab.game_value` gives it.
        theme: its colours.
    """
    rows, columns = list(game.defenders), list(game.adversaries)
    cells = [
        {"defender": row, "adversary": column, "percent": 100 * float(game.payoff[i][j])}
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
    x = alt.X("adversary:N", sort=columns, title="adversary", axis=alt.Axis(labelAngle=-40, labelLimit=260))
    y = alt.Y("defender:N", sort=rows, title="defender", axis=alt.Axis(labelLimit=200))
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
    weight: dict[str, Any] = {
        "title": "played, %",
        "scale": alt.Scale(domain=[0, 100]),
        "axis": alt.Axis(values=[0, 50, 100]),
    }
    own: dict[str, Any] = {"sort": list(names), "axis": None}
    bars = alt.Chart(alt.Data(values=values)).mark_bar(color=theme.curves[2])
    tips = [f"{who}:N", alt.Tooltip("weight:Q", format=".1f")]
    if who == "adversary":
        return bars.encode(x=alt.X("adversary:N", **own), y=alt.Y("weight:Q", **weight), tooltip=tips)
    return bars.encode(y=alt.Y("defender:N", **own), x=alt.X("weight:Q", **weight), tooltip=tips)

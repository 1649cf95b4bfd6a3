"""Charts of a run, in Altair: contenders as points with quartiles, and scaling as lines in log-log."""
# mypy: disable-error-code="no-any-return, no-untyped-call"
# Altair's encode() has no types.

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import altair as alt

from saplab.report.charts import PAGE, PAPER, SHAPES, Theme, configured
from suite.measure import Spread
from suite.results import Record, Results

_ROW: Final = 22  # pixels of a point's row
Point = dict[str, Any]


def charts(results: Results, theme: Theme = PAPER) -> dict[str, alt.TopLevelMixin]:
    """Draw the sections that a run measured, by name."""
    found: dict[str, alt.TopLevelMixin] = {}
    for name, (title, draw) in _POINTS.items():
        if records := results.section(name):
            found[name] = points_chart(draw(records), title, theme)
    if records := results.section("scaling"):
        found["scaling"] = scaling_chart(records, theme)
    return found


def points_chart(points: Sequence[Point], title: str, theme: Theme = PAPER) -> alt.LayerChart:
    """Draw ``value`` with ``low`` and ``high`` of each ``name`` on a logarithmic axis, a colour and shape a ``series``.

    Raises:
        ValueError: for no points.
    """
    if not points:
        raise ValueError("`points` must hold at least one, got none")
    names = list(dict.fromkeys(point["name"] for point in points))
    series = list(dict.fromkeys(point["series"] for point in points))
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=230, domain=False, ticks=False, grid=True))
    base = alt.Chart(alt.Data(values=list(points))).encode(
        y=y, yOffset=alt.YOffset("series:N", sort=series), color=_colour(series, theme)
    )
    scale = alt.Scale(type="log", nice=False, padding=12)
    x = alt.X(
        "value:Q", title=title, scale=scale, axis=alt.Axis(format="~r", labelOverlap=True, labelFlush=True, tickCount=6)
    )
    rules = base.mark_rule(strokeWidth=2, opacity=0.5).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
    tips = ["series:N", "name:N", *(alt.Tooltip(f"{field}:Q", format=".3~r") for field in ("value", "low", "high"))]
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, shape=_shape(series), tooltip=tips)
    height = alt.Step(max(_ROW, 12 * len(series)), **{"for": "position"})
    chart = alt.layer(rules, marks).properties(width=_width(theme), height=height)
    return configured(chart.properties(description=f"{title}, for each of: " + "; ".join(names)), theme)


def scaling_chart(records: Sequence[Record], theme: Theme = PAPER) -> alt.LayerChart:
    """Draw how many times as long a work takes as it grows, each from its smallest size; linear growth is dashed.

    Raises:
        ValueError: for no records.
    """
    if not records:
        raise ValueError("`records` must hold at least one, got none")
    points = list(_grown(records))
    series = list(dict.fromkeys(point["series"] for point in points))
    most = max(point["growth"] for point in points)
    x = alt.X(
        "growth:Q",
        title="size, times the smallest",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(values=[1 << k for k in range(int(most).bit_length())], format="d"),
    )
    y = alt.Y("time:Q", title="time, times that of the smallest", scale=alt.Scale(type="log", base=2))
    diagonal = alt.Chart(alt.Data(values=[{"growth": 1, "time": 1}, {"growth": most, "time": most}]))
    dashed = diagonal.mark_line(strokeDash=[4, 4], strokeWidth=1.2, color=theme.ink).encode(x=x, y=y)
    base = alt.Chart(alt.Data(values=points)).encode(x=x, color=_colour(series, theme))
    lines = base.mark_line(strokeWidth=2).encode(y=y)
    rules = base.mark_rule(strokeWidth=2, opacity=0.5).encode(y="low:Q", y2="high:Q")
    tips = ["series:N", "size:Q", alt.Tooltip("milliseconds:Q", format=".3~r"), alt.Tooltip("time:Q", format=".3~r")]
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=_shape(series), tooltip=tips)
    chart = alt.layer(dashed, lines, rules, marks).properties(width=_width(theme), height=380)
    return configured(chart.properties(description="Time against size, for each of: " + "; ".join(series)), theme)


def _grown(records: Sequence[Record]) -> Iterable[Point]:
    first: dict[str, Record] = {}
    for record in records:
        start = first.setdefault(record.case, record)
        unit = start.value.median
        yield {
            "series": record.case,
            "size": record.size,
            "growth": (record.size or 0.0) / (start.size or 1.0),
            "milliseconds": record.value.median,
            "time": record.value.median / unit,
            "low": record.value.low / unit,
            "high": record.value.high / unit,
        }


def _width(theme: Theme) -> int | str:
    return "container" if theme is PAGE else 520


def _colour(series: Sequence[str], theme: Theme) -> alt.Color:
    colours = [theme.curves[k % len(theme.curves)] for k in range(len(series))]
    return alt.Color("series:N", scale=alt.Scale(domain=list(series), range=colours), legend=_legend())


def _shape(series: Sequence[str]) -> alt.Shape:
    shapes = [SHAPES[k % len(SHAPES)] for k in range(len(series))]
    return alt.Shape("series:N", scale=alt.Scale(domain=list(series), range=shapes), legend=_legend())


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", columns=1, labelLimit=420, symbolOpacity=1)


def _point(series: str, name: str, spread: Spread) -> Point:
    return {"series": series, "name": name, "value": spread.median, "low": spread.low, "high": spread.high}


def _values(records: Sequence[Record]) -> list[Point]:
    return [_point(record.case, record.name, record.value) for record in records]


def _ratios(records: Sequence[Record]) -> list[Point]:
    return [_point(record.case, record.name, record.ratio) for record in records if record.ratio]


def _throughputs(records: Sequence[Record]) -> list[Point]:
    return [_point(record.case, record.name, record.value.inverse(1000.0)) for record in records]


def _limits(records: Sequence[Record]) -> list[Point]:
    points = [_point("measured", record.name, record.value) for record in records]
    for record in records:
        for name, series in (("memory", "what memory allows"), ("arithmetic", "what arithmetic allows")):
            if record.details.get(name):
                points.append(_point(series, record.name, Spread.of([record.details[name]])))
    return points


_POINTS: Final[Mapping[str, tuple[str, Any]]] = {
    "sampler": ("nanoseconds an activation", _values),
    "pass": ("times the dense network's pass", _ratios),
    "gradients": ("examples a second", _throughputs),
    "memory": ("times the dense network's memory", _ratios),
    "roofline": ("nanoseconds an activation", _limits),
}

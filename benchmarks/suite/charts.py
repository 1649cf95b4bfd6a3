"""Charts of a run, in Altair: contenders as points with quartiles, and scaling as lines in log-log."""
# mypy: disable-error-code="no-any-return, no-untyped-call"
# Altair's encode() has no types.

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, Final

import altair as alt

from saplab.report.charts import PAPER, SHAPES, configured
from suite.results import Record, Results
from suite.timing import Spread

_ROW: Final = 22  # pixels of a point's row
Point = dict[str, Any]


def charts(results: Results) -> dict[str, alt.LayerChart]:
    """Draw the sections that a run measured, by name."""
    found = {
        name: points_chart(points(records), title)
        for name, (title, points) in _POINTS.items()
        if (records := results.section(name))
    }
    if records := results.section("scaling"):
        found["scaling"] = scaling_chart(records)
    return found


def points_chart(points: Sequence[Point], title: str) -> alt.LayerChart:
    """Draw ``value`` with ``low`` and ``high`` of each ``name`` on a logarithmic axis; a ``series`` has one colour."""
    names = list(dict.fromkeys(point["name"] for point in points))
    series = list(dict.fromkeys(point["series"] for point in points))
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=230, domain=False, ticks=False, grid=True))
    base = alt.Chart(alt.Data(values=list(points))).encode(
        y=y, yOffset=alt.YOffset("series:N", sort=series), color=_colour(series)
    )
    scale = alt.Scale(type="log", nice=False, padding=12)
    axis = alt.Axis(format="~r", labelOverlap=True, labelFlush=True, tickCount=6, titleAnchor="end")
    rules = base.mark_rule(strokeWidth=2, opacity=0.5).encode(
        x=alt.X("low:Q", title=title, scale=scale, axis=axis), x2="high:Q"
    )
    tips = ["series:N", "name:N", *(alt.Tooltip(f"{field}:Q", format=".3~r") for field in ("value", "low", "high"))]
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("value:Q", title=title, scale=scale, axis=axis), shape=_shape(series), tooltip=tips
    )
    height = alt.Step(max(_ROW, 12 * len(series)), **{"for": "position"})
    chart = alt.layer(rules, marks).properties(width="container", height=height)
    return configured(chart.properties(description=f"{title}, for each of: " + "; ".join(names)), PAPER)


def scaling_chart(records: Sequence[Record]) -> alt.LayerChart:
    """Draw time against size, each relative to that of the smallest size; linear growth is dashed."""
    points = list(_grown(records))
    series = list(dict.fromkeys(point["series"] for point in points))
    most = max(point["growth"] for point in points)
    x = alt.X(
        "growth:Q",
        title="size, relative to the smallest",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(values=[1 << k for k in range(int(most).bit_length())], format="d"),
    )
    y = alt.Y("time:Q", title="time, relative to the smallest size", scale=alt.Scale(type="log", base=2))
    diagonal = alt.Chart(alt.Data(values=[{"growth": 1, "time": 1}, {"growth": most, "time": most}]))
    dashed = diagonal.mark_line(strokeDash=[4, 4], strokeWidth=1.2, color=PAPER.ink).encode(x=x, y=y)
    base = alt.Chart(alt.Data(values=points)).encode(x=x, color=_colour(series))
    lines = base.mark_line(strokeWidth=2).encode(y=y)
    rules = base.mark_rule(strokeWidth=2, opacity=0.5).encode(y="low:Q", y2="high:Q")
    tips = ["series:N", "size:Q", alt.Tooltip("milliseconds:Q", format=".3~r"), alt.Tooltip("time:Q", format=".3~r")]
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=_shape(series), tooltip=tips)
    chart = alt.layer(dashed, lines, rules, marks).properties(width="container", height=380)
    return configured(chart.properties(description="Time against size, for each of: " + "; ".join(series)), PAPER)


def _grown(records: Sequence[Record]) -> Iterable[Point]:
    first: dict[str, Record] = {}
    for record in records:
        start = first.setdefault(record.case, record)
        unit = start.value.median
        yield {
            "series": record.case,
            "size": record.size,
            "growth": (record.size or 0) / (start.size or 1),
            "milliseconds": record.value.median,
            "time": record.value.median / unit,
            "low": record.value.low / unit,
            "high": record.value.high / unit,
        }


def _colour(series: Sequence[str]) -> alt.Color:
    return alt.Color("series:N", scale=_in_turn(PAPER.curves, series), legend=_legend())


def _shape(series: Sequence[str]) -> alt.Shape:
    return alt.Shape("series:N", scale=_in_turn(SHAPES, series), legend=_legend())


def _in_turn(values: Sequence[str], series: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(series), range=list(islice(cycle(values), len(series))))


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", columns=1, labelLimit=420, symbolOpacity=1)


def _point(series: str, name: str, spread: Spread) -> Point:
    return {"series": series, "name": name, "value": spread.median, "low": spread.low, "high": spread.high}


def _values(records: Sequence[Record]) -> list[Point]:
    return [_point(record.case, record.name, record.value) for record in records]


def _ratios(records: Sequence[Record]) -> list[Point]:
    return [_point(record.case, record.name, record.ratio) for record in records if record.ratio]


def _rates(records: Sequence[Record]) -> list[Point]:
    return [_point(record.case, record.name, record.value.inverse(1000.0)) for record in records]


def _limits(records: Sequence[Record]) -> list[Point]:
    points = [_point("measured", record.name, record.value) for record in records]
    for record in records:
        for name, series in (("memory", "memory's limit"), ("arithmetic", "arithmetic's limit")):
            if record.details.get(name):
                points.append(_point(series, record.name, Spread.of([record.details[name]])))
    return points


_POINTS: Final[Mapping[str, tuple[str, Any]]] = {
    "sampler": ("nanoseconds per activation", _values),
    "pass": ("time, relative to the dense network's", _ratios),
    "calls": ("microseconds", _values),
    "gradients": ("examples per second", _rates),
    "memory": ("memory, relative to the dense network's", _ratios),
    "roofline": ("nanoseconds per activation", _limits),
}

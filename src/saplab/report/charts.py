"""Accuracy against strength as an Altair chart: one definition for the page, SVG, PNG and PDF."""
# mypy: disable-error-code="no-any-return, no-untyped-call"
# Altair's encode() has no types.

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final, Literal

import altair as alt

Records = Sequence[Mapping[str, Any]]

STRENGTH: Final = "strength λ (pixel steps of 0..255)"  # title of the usual axis

_DRAWN: Final = "drawn"  # before the ends of an interval, the columns that are drawn
_ENDS: Final = ("percent", "low", "high")

SHAPES = (  # SVG paths in a box from -1 to 1, for the chart and for the page's legend
    "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
    "M-.9,-.9H.9V.9H-.9Z",
    "M0,-1L1,.8H-1Z",
    "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "M0,1L1,-.8H-1Z",
    "M-.4,-1H.4V-.4H1V.4H.4V1H-.4V.4H-1V-.4H-.4Z",
)


@dataclass(frozen=True)
class Theme:
    """Colours of a chart, as CSS writes them: of text, of grid and axes, of the ground, and of the curves in order."""

    ink: str
    grid: str
    background: str
    curves: tuple[str, ...]


# Okabe & Ito's colour-blind-safe palette, darkened to at least 3:1 against white, and four more for long legends.
PAPER = Theme(
    "#1f2328", "#d9dee3", "#ffffff",
    ("#0072b2", "#d55e00", "#00805c", "#a64d87", "#8a6d00", "#555b61", "#4b3fd1", "#a3123a", "#5fa01e", "#009db0"),
)  # fmt: skip
# The page's colours on a dark ground: the same hues, lightened to at least 4.5:1.
DARK = Theme(
    "#e6e9ec", "#3a4047", "#16191d",
    ("#58a6e0", "#ff8f4d", "#2fc294", "#e08fc2", "#d9b832", "#b3bac2", "#a79cff", "#ff6f86", "#a6e05c", "#5fe0ee"),
)  # fmt: skip
# The page sets these CSS variables for light, dark and print.
PAGE = Theme("var(--ink)", "var(--grid)", "transparent", tuple(f"var(--curve-{k})" for k in range(len(PAPER.curves))))


def accuracy_chart(
    records: Records, theme: Theme = PAPER, title: str = "", shown: Sequence[str] | None = None, axis: str = STRENGTH
) -> alt.LayerChart:
    """Draw accuracy (%) against strength: a line, points and a 95 % band for each curve; the paper's numbers hollow.

    The strength λ has a symmetric logarithmic axis, so that 0, 1, 2, 4, … are evenly spaced; another one, which `axis`
    names, a linear one. The parameter ``shown`` holds the labels of the curves to draw. On the page's theme the chart
    fills its container and holds all curves, the page makes the legend, and a menu chooses how accuracy is counted
    where passes differ; elsewhere it holds those shown.

    A record for each curve and strength has the columns of ``accuracy.csv``; those with a true ``across`` are not
    drawn. `shown` are the labels of the curves drawn at first, by default all. Raises ValueError without records.
    """
    if not records:
        raise ValueError("`records` must hold at least one row, got none")
    chosen = theme is PAGE or shown is None
    records = _drawable([record for record in records if chosen or record["curve"] in (shown or ())])
    labels = _labels(records, shown)
    drawn = alt.param(name="shown", value=list(shown or labels))
    colour = alt.Color("curve:N", scale=in_turn(theme.curves, labels), legend=_legend(theme))
    base = alt.Chart().encode(x=_strength_axis(records, axis), color=colour)
    tips = _tooltips("λ" if axis == STRENGTH else "ε")
    layers = [_intervals(base, records, len(shown or labels)), *_measured(base, labels, theme, tips)]
    if _has_paper(records):
        layers += _papers(base, labels, tips)
    chart = alt.LayerChart(data=alt.Data(values=list(records)), layer=layers)
    chart = chart.transform_filter("indexof(shown, datum.curve) >= 0").add_params(drawn)
    chart = _counted(chart, _countings(records) if theme is PAGE else {})
    chart = chart.properties(width="container" if theme is PAGE else 620, height=380)
    chart = chart.properties(description="Accuracy in % against strength, one line for each of: " + "; ".join(labels))
    return configured(chart.properties(title=_heading(title, records)) if title else chart, theme)


def _labels(records: Records, shown: Sequence[str] | None) -> list[str]:
    """Return the curves' labels, those shown at first in front, so that their colours differ."""
    labels = list(dict.fromkeys(record["curve"] for record in records))
    return sorted(labels, key=lambda label: shown is not None and label not in shown)


def _drawable(records: Records) -> Records:
    """Leave out what is no line of this chart: curves across, and single strengths beside longer curves."""
    lengths = Counter(record["curve"] for record in records)
    longest = max(lengths.values())
    return [record for record in records if not record.get("across") and (lengths[record["curve"]] > 1 or longest == 1)]


def _countings(records: Records) -> dict[str, str]:
    """Return the ways of counting by their columns, in words; none where all passes are the same."""
    ways = {"averaged": "the averaged prediction", "single_pass": "one pass"}
    tries = {name: f"{name.split('_')[1]} tries" for name in records[0] if name.endswith("_tries_percent")}
    known = {name: words for name, words in tries.items() if any(record[name] is not None for record in records)}
    return ways | {name.removesuffix("_percent"): words for name, words in known.items()} if known else {}


def _counted(chart: alt.LayerChart, ways: Mapping[str, str]) -> alt.LayerChart:
    """Compute what is drawn: averaged accuracy, or what a menu chooses; a network that is not random keeps the former.

    It goes into columns of its own, as Vega writes into its records for good.
    """
    columns = {f"{_DRAWN}_{end}": f"datum.averaged_{end}" for end in _ENDS}
    if not ways:
        return chart.transform_calculate(**columns)
    menu = alt.binding_select(options=list(ways), labels=list(ways.values()), name="Counted by: ")
    for end in _ENDS:
        chosen = f"datum[counted + '_{end}']"
        columns[f"{_DRAWN}_{end}"] = f"isValid({chosen}) ? {chosen} : datum.averaged_{end}"
    return chart.transform_calculate(**columns).add_params(alt.param(name="counted", value="averaged", bind=menu))


def _has_paper(records: Records) -> bool:
    return any(record["paper_percent"] is not None for record in records)


def to_bytes(chart: alt.TopLevelMixin, kind: Literal["svg", "png", "pdf"]) -> bytes:
    """Render the chart, without a browser."""
    if kind == "svg":
        chart.save(text := io.StringIO(), format="svg")
        return text.getvalue().encode()
    content = io.BytesIO()
    chart.save(content, format=kind, scale_factor=2 if kind == "png" else 1)
    return content.getvalue()


def swatches(records: Records, shown: Sequence[str] | None = None) -> list[tuple[str, str, str]]:
    """Return (label, colour, SVG path of the point) for each curve, as the page's chart draws it."""
    labels = _labels(_drawable(records), shown)
    return list(zip(labels, cycle(PAGE.curves), cycle(SHAPES), strict=False))


def _heading(title: str, records: Records) -> alt.TitleParams:
    paper = " Hollow, dashed: the paper's numbers." if _has_paper(records) else ""
    images = max(record["images"] for record in records)
    return alt.TitleParams(title, subtitle=f"{images:,} images. Bands or bars: 95 % intervals.{paper}")


def _strength_axis(records: Records, title: str) -> alt.X:
    strengths = sorted({record["strength"] for record in records})
    axis = alt.Axis(values=strengths, labelExpr="toString(datum.value)", labelOverlap=True, labelFlush=False)
    kind: dict[str, Any] = {"type": "symlog", "constant": 1} if title == STRENGTH else {}
    scale = alt.Scale(domain=[strengths[0], strengths[-1]], nice=False, **kind)
    return alt.X("strength:Q", title=title, axis=axis, scale=scale)


def _percent_axis(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title="accuracy (%)", scale=alt.Scale(domain=[0, 100]))


def _legend(theme: Theme) -> alt.Legend | None:
    shown = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=0, symbolOpacity=1)
    return None if theme is PAGE else shown


def in_turn(values: Sequence[str], labels: Sequence[Any]) -> alt.Scale:
    """Return the scale on which each label has one of the values, in turn: one of `SHAPES`, or of a theme's colours."""
    return alt.Scale(domain=list(labels), range=list(islice(cycle(values), len(labels))))


def _intervals(base: alt.Chart, records: Records, overlapping: int) -> alt.Chart:
    """Draw the intervals as bands, fainter where many overlap; as bars where a single strength leaves no width."""
    if len({record["strength"] for record in records}) == 1:
        marks = base.mark_rule(strokeWidth=2, opacity=0.5)
    else:
        marks = base.mark_area(opacity=min(0.16, 0.6 / overlapping))
    return marks.encode(y=_percent_axis(f"{_DRAWN}_low"), y2=f"{_DRAWN}_high:Q")


def _measured(base: alt.Chart, labels: Sequence[str], theme: Theme, tips: list[alt.Tooltip]) -> list[alt.Chart]:
    y = _percent_axis(f"{_DRAWN}_percent")
    shape = alt.Shape("curve:N", scale=in_turn(SHAPES, labels), legend=_legend(theme))
    points = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=shape, tooltip=tips)
    return [base.mark_line(strokeWidth=2).encode(y=y), points]


def _papers(base: alt.Chart, labels: Sequence[str], tips: list[alt.Tooltip]) -> list[alt.Chart]:
    y, shape = _percent_axis("paper_percent"), alt.Shape("curve:N", scale=in_turn(SHAPES, labels), legend=None)
    known = base.transform_filter("isValid(datum.paper_percent)").encode(y=y)
    points = known.mark_point(filled=False, size=70, strokeWidth=1.6, opacity=1)
    return [known.mark_line(strokeWidth=1.2, strokeDash=[4, 4]), points.encode(shape=shape, tooltip=tips)]


def _tooltips(radius: str) -> list[alt.Tooltip]:
    numbers = {
        f"{_DRAWN}_percent": "accuracy %", f"{_DRAWN}_low": "95 % from", f"{_DRAWN}_high": "95 % to",
        "single_pass_percent": "single pass %", "paper_percent": "paper %",
    }  # fmt: skip
    first = [alt.Tooltip("curve:N"), alt.Tooltip("strength:Q", title=radius), alt.Tooltip("images:Q")]
    return first + [alt.Tooltip(f"{name}:Q", title=title, format=".1f") for name, title in numbers.items()]


def configured(chart: Any, theme: Theme) -> Any:
    """Return a chart of any kind with the theme's colours and fonts."""
    text: dict[str, Any] = {"labelColor": theme.ink, "titleColor": theme.ink, "labelFontSize": 12, "titleFontSize": 13}
    lines = {"gridColor": theme.grid, "domainColor": theme.grid, "tickColor": theme.grid}
    return (
        chart.configure(background=theme.background, font="system-ui, sans-serif", padding=8)
        .configure_axis(titleFontWeight="normal", titlePadding=8, **text, **lines)
        .configure_legend(**text)
        .configure_view(stroke=None)
        .configure_title(color=theme.ink, subtitleColor=theme.ink, anchor="start", fontSize=15, subtitlePadding=5)
    )

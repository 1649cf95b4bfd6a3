"""What the pages have in common: templates, Vega, and the facts of how numbers were made."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from saplab.report.tables import columns_of, strength_text
from saplab.system.words import counted


@cache
def template(name: str) -> Template:
    """Return a page's template."""
    environment = Environment(
        loader=PackageLoader("saplab.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["columns"] = columns_of
    environment.filters["strength"] = strength_text
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.globals["mixture"] = _mixture_text
    return environment.get_template(name)


def _mixture_text(names: Sequence[str], weights: Sequence[float]) -> str:
    """Return what is played at least once in a hundred, the most first: "SAP-100 (70 %), dense (30 %)"."""
    played = sorted(zip(weights, names, strict=True), reverse=True)
    return ", ".join(f"{name} ({100 * weight:.0f} %)" for weight, name in played if weight >= 0.01)


@cache
def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that sets ``vegaEmbed``."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.javascript_bundle(vl_version=version))  # type: ignore[call-arg] # its stub is wrong


_COUNTED: Final = ("seconds", "processor seconds", "time")


def machine(made: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Summarise how cells were made: every value that occurs, the sum of the seconds, the span of the times."""
    seconds, busy = (sum(entry.get(name, 0) for entry in made) for name in ("seconds", "processor seconds"))
    times = sorted(str(entry["time"]) for entry in made if "time" in entry)
    names = dict.fromkeys(name for entry in made for name in entry if name not in _COUNTED)
    facts = {name: "; ".join(dict.fromkeys(_text(entry[name]) for entry in made if name in entry)) for name in names}
    span = " to ".join(dict.fromkeys((times[0], times[-1]))) if times else "unknown"
    spent = f"{seconds:,.0f} s in {counted(len(made), 'cell')}" + (f", {busy:,.0f} s of processors" if busy else "")
    return {**facts, "computing time": spent, "finished": span}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value)

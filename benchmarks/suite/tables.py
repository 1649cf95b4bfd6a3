"""Results as tables of text: the terminal, the page and Markdown all show these."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from saplab.report.markdown import rows_text
from saplab.system.words import counted
from suite.measure import Spread
from suite.results import Fit, Record, Results

BEGIN: Final = "<!-- measured: `saplab bench --markdown` writes what follows -->"
END: Final = "<!-- end of what is measured -->"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        name: of the section.
        title: heading.
        columns: the first for names, the rest for numbers.
        rows: cells of each row.
        note: what the words mean.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(results: Results) -> list[Table]:
    """Lay out all that a run measured, one or more tables a section."""
    return [table for name, lay in _LAYOUTS.items() if results.section(name) for table in lay(results)]


def conditions(results: Results) -> str:
    """Say on what machine, with what and under what load a run measured."""
    made, versions = results.machine, results.machine["versions"]
    where = " with ".join(filter(None, (str(made["processor"]), str(made.get("gpu", "")))))
    load = made["load"]
    busy = "" if load["start"] is None else f", load average {load['start']} at the start and {load['end']} at the end"
    build = f"saplab {versions['saplab']}" + (f" ({made['commit']})" if made["commit"] else "")
    counts = f"{counted(made['cores'], 'core')}, {counted(made['threads'], 'thread')}"
    return (
        f"{where}, {counts}, {made['vectors']}; {build}, Python"
        f" {versions['python']}, PyTorch {versions['torch']}, Numba {versions['numba']}; {made['time']}"
        f", {made['seconds']:.0f} s{busy}. Medians of interleaved rounds, with quartiles in brackets."
    )


def number(value: float) -> str:
    """Write a number with three significant digits, thousands apart."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def spread_text(spread: Spread) -> str:
    """Write a median with its quartiles, where there are several rounds."""
    if spread.rounds == 1:
        return number(spread.median)
    return f"{number(spread.median)} [{number(spread.low)}, {number(spread.high)}]"


def _times_text(ratio: Spread | None) -> str:
    return "–" if ratio is None else f"{spread_text(ratio)} ×"


def _grouped(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.case, []).append(record)
    return found


def _sampler(results: Results) -> list[Table]:
    columns = ("way", "ns an activation", "processor", "of saplab's time")
    return [
        Table("sampler", f"Sampler: {case}", columns,
              tuple((r.name, spread_text(r.value), number(r.processor or 0.0), _times_text(r.ratio)) for r in records),
              "Draws r = a. Independent Bernoulli and copy do less: another law, and no law at all.")
        for case, records in _grouped(results.section("sampler")).items()
    ]  # fmt: skip


def _pass(results: Results) -> list[Table]:
    columns = ("network", "seconds", "processor", "of dense")
    return [
        Table("pass", f"Pass: {case}", columns,
              tuple((r.name, spread_text(r.value), number(r.processor or 0.0), _times_text(r.ratio)) for r in records))
        for case, records in _grouped(results.section("pass")).items()
    ]  # fmt: skip


def _gradients(results: Results) -> list[Table]:
    records = results.section("gradients")
    rows = tuple((f"{r.name}, {r.case}", _throughput(r.value), _times_text(r.ratio)) for r in records)
    columns = ("way and network", "examples a second", "saplab is faster by")
    note = "An example is one sample of one image. The last column compares with saplab's gradient on its own network."
    return [Table("gradients", "Monte Carlo gradients", columns, rows, note)]


def _throughput(milliseconds: Spread) -> str:
    """Turn ms an example into examples a second."""
    return spread_text(milliseconds.inverse(1000.0))


def _scaling(results: Results) -> list[Table]:
    columns = ("grows", "from, to", "ms", "exponent", "perfect", "farthest from the line")
    rows = tuple(_fit_row(fit, results.section("scaling")) for fit in results.fits)
    note = "Time = constant · size^exponent, by least squares of the logarithms of medians; ± is the 95 % interval."
    return [Table("scaling", "Scaling", columns, rows, note)]


def _fit_row(fit: Fit, records: Iterable[Record]) -> tuple[str, ...]:
    found = [record for record in records if record.case == fit.case]
    sizes, times = (
        " to ".join(texts)
        for texts in ((found[0].name, found[-1].name), (number(r.value.median) for r in (found[0], found[-1])))
    )
    error = "" if fit.error is None else f" ± {fit.error:.2f}"
    return fit.case, sizes, times, f"{fit.exponent:.2f}{error}", f"{fit.expected:g}", f"{100 * fit.deviation:.0f} %"


def _memory(results: Results) -> list[Table]:
    records = results.section("memory")
    rows = tuple((r.name, number(r.value.median), _times_text(r.ratio)) for r in records)
    note = "How far a process's memory rises at most in one pass, each network in a process of its own."
    return [Table("memory", f"Peak memory: {records[0].case}", ("network", "MB", "of dense"), rows, note)]


def _roofline(results: Results) -> list[Table]:
    columns = ("kernel", "an activation needs", "memory, ns", "arithmetic, ns", "measured, ns", "of the limit")
    note = (
        "The limit is max(bytes / copy, words / Philox + exponentials / (1 - e^-x) + flops / multiply-add) at the"
        " speeds of the table below; it is compared with the fastest round, as those speeds are of theirs."
    )
    found = [
        Table("roofline", "Roofline: kernels", columns, tuple(map(_kernel_row, results.section("roofline"))), note)
    ]
    speeds = tuple(_speed_row(name, value) for name, value in results.ceilings.items())
    note = "The best of the rounds, on all threads of the run; a copy reads and writes its bytes."
    return [*found, Table("roofline", "Roofline: this machine", ("what", "speed"), speeds, note)]


def _kernel_row(r: Record) -> tuple[str, ...]:
    limits = (number(r.details[name]) if name in r.details else "–" for name in ("memory", "arithmetic"))
    return (
        r.name,
        _need_text(r.details),
        *limits,
        spread_text(r.value),
        f"{100 / r.ratio.best:.0f} %" if r.ratio else "–",
    )


def _need_text(details: Mapping[str, float]) -> str:
    kinds = ("bytes", "words", "exponentials", "flops")
    return ", ".join(f"{details[kind]:g} {kind}" for kind in kinds if details[kind])


def _speed_row(name: str, value: float) -> tuple[str, str]:
    what, _, unit = name.partition(", ")
    return what, f"{number(value)} {unit}"


_LAYOUTS: Final[Mapping[str, Callable[[Results], list[Table]]]] = {
    "sampler": _sampler,
    "pass": _pass,
    "gradients": _gradients,
    "scaling": _scaling,
    "memory": _memory,
    "roofline": _roofline,
}


def compare(new: Results, old: Results) -> Table:
    """Lay out the ratio of new to old of every record that both runs have.

    ``beyond the quartiles`` says that the two runs' quartiles do not meet.

    Raises:
        ValueError: if they have none in common.
    """
    before = {record.key: record for record in old.records}
    rows = tuple(
        (f"{r.section}: {r.case}: {r.name}", number(before[r.key].value.median), number(r.value.median), r.unit,
         f"{r.value.median / before[r.key].value.median:.2f} ×", _verdict(r.value, before[r.key].value))
        for r in new.records if r.key in before
    )  # fmt: skip
    if not rows:
        raise ValueError("`compare`: the two runs have no measurement in common; were both quick, or both full?")
    differ = [name for name in ("processor", "threads", "vectors") if new.machine[name] != old.machine[name]]
    note = f"The machines differ: {', '.join(differ)}." if differ else ""
    return Table("compare", "New against old", ("measurement", "old", "new", "unit", "new / old", ""), rows, note)


def _verdict(new: Spread, old: Spread) -> str:
    if new.high < old.low:
        return "less, beyond the quartiles"
    return "more, beyond the quartiles" if new.low > old.high else ""


def to_markdown(results: Results) -> str:
    """Write all tables and the conditions as Markdown."""
    blocks = [conditions(results)]
    for table in tables(results):
        blocks += [f"### {table.title}", rows_text(table.columns, table.rows)]
        blocks += [table.note] if table.note else []
    blocks += ["Left out: " + "; ".join(results.left_out) + "."] if results.left_out else []
    return "\n\n".join(blocks) + "\n"


def rewritten(page: str, results: Results) -> str:
    """Put the tables between the marks of a page of Markdown; a page without marks gets them at its end.

    Raises:
        ValueError: if one mark is there without the other, or they stand in the wrong order.
    """
    if BEGIN not in page and END not in page:
        head = page.rstrip("\n") or "# Performance"
        return f"{head}\n\n## Measured\n\n{BEGIN}\n\n{to_markdown(results)}\n{END}\n"
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must hold the lines {BEGIN!r} and {END!r}, in this order")
    return f"{before}{BEGIN}\n\n{to_markdown(results)}\n{END}{after}"


def options_text(options: Mapping[str, Any]) -> dict[str, str]:
    """Write the sizes and rounds of a run for people."""
    return {name.replace("_", " "): _value_text(value) for name, value in options.items()}


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_value_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return ("; " if nested else ", ").join(map(_value_text, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

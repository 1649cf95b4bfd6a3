"""Results as tables of text, for the terminal, the page and Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from suite.results import Fit, Record, Results
from suite.timing import Spread

BEGIN: Final = "<!-- measured: written by `python benchmarks/bench.py --markdown` -->"
END: Final = "<!-- end of what is measured -->"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        section: of the benchmark.
        title: heading.
        columns: the first for names, the rest for numbers.
        rows: cells of each row.
        note: what the words mean.
    """

    section: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(results: Results) -> list[Table]:
    """Lay out all that a run measured, one or more tables for each section."""
    return [table for name, lay_out in _LAYOUTS.items() if results.section(name) for table in lay_out(results)]


def conditions(results: Results) -> str:
    """Describe the machine, the versions and the load of a run."""
    made, versions = results.machine, results.machine["versions"]
    where = " with ".join(filter(None, (str(made["processor"]), str(made.get("gpu", "")))))
    load = f", load average {made['load']} before and {made['load_after']} after" if made["load"] is not None else ""
    build = f"saplab {versions['saplab']}" + (f" ({made['commit']})" if made["commit"] else "")
    return (
        f"{where}, cores: {made['cores']}, threads: {made['threads']}, {made['vectors']}; {build}, Python"
        f" {versions['python']}, PyTorch {versions['torch']}, Numba {versions['numba']}; {made['time']},"
        f" {made['seconds']:.0f} s{load}. Medians of interleaved rounds, with quartiles in brackets."
    )


def number(value: float) -> str:
    """Write a number with three significant digits and a comma between thousands."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def spread_text(spread: Spread) -> str:
    """Write a median with its quartiles, where there are several rounds."""
    if spread.rounds == 1:
        return number(spread.median)
    return f"{number(spread.median)} [{number(spread.low)}, {number(spread.high)}]"


def _ratio_text(ratio: Spread | None) -> str:
    return "–" if ratio is None else f"{spread_text(ratio)} ×"


def _sampler(results: Results) -> list[Table]:
    columns = ("method", "ns per activation", "processor", "relative to saplab")
    note = "Draws r = a. Independent Bernoulli follows another law, and a copy draws nothing."
    return [Table("sampler", f"Sampler: {case}", columns, rows, note) for case, rows in _timed(results, "sampler")]


def _pass(results: Results) -> list[Table]:
    columns = ("network", "seconds", "processor", "relative to dense")
    return [Table("pass", f"Pass: {case}", columns, rows) for case, rows in _timed(results, "pass")]


def _calls(results: Results) -> list[Table]:
    columns = ("network", "µs", "processor", "relative to a ReLU")
    note = "A network that is a single ReLU, undefended and defended; its overhead is what is beyond the kernel."
    return [Table("calls", f"Call: {case}", columns, rows, note) for case, rows in _timed(results, "calls")]


def _timed(results: Results, section: str) -> Iterable[tuple[str, tuple[tuple[str, ...], ...]]]:
    """Yield each case of a section with its rows: name, time, processor time and ratio."""
    records = results.section(section)
    for case in dict.fromkeys(record.case for record in records):
        yield (
            case,
            tuple(
                (r.name, spread_text(r.value), number(r.processor or 0.0), _ratio_text(r.ratio))
                for r in records
                if r.case == case
            ),
        )


def _gradients(results: Results) -> list[Table]:
    records = results.section("gradients")
    rows = tuple((f"{r.name}, {r.case}", spread_text(r.value.inverse(1000.0)), _ratio_text(r.ratio)) for r in records)
    columns = ("method and network", "examples per second", "saplab is faster by")
    note = "An example is one sample of one image. The last column compares with saplab's gradient on its own network."
    return [Table("gradients", "Monte Carlo gradients", columns, rows, note)]


def _scaling(results: Results) -> list[Table]:
    columns = ("what grows", "from, to", "ms", "exponent", "ideal", "largest deviation")
    rows = tuple(_fit_row(fit, results.section("scaling")) for fit in results.fits)
    note = "Time = constant · size^exponent, by least squares of the logarithms of medians; ± is the 95 % interval."
    return [Table("scaling", "Scaling", columns, rows, note)]


def _fit_row(fit: Fit, records: Iterable[Record]) -> tuple[str, ...]:
    first, *_, last = (record for record in records if record.case == fit.case)
    times = f"{number(first.value.median)} to {number(last.value.median)}"
    exponent = f"{fit.exponent:.2f}" + ("" if fit.error is None else f" ± {fit.error:.2f}")
    deviation = f"{100 * fit.deviation:.0f} %"
    return fit.case, f"{first.name} to {last.name}", times, exponent, f"{fit.expected:g}", deviation


def _memory(results: Results) -> list[Table]:
    records = results.section("memory")
    rows = tuple((r.name, number(r.value.median), _ratio_text(r.ratio)) for r in records)
    note = "The rise of peak memory in one pass; on the CPU that of a process for each network."
    return [Table("memory", f"Peak memory: {records[0].case}", ("network", "MB", "relative to dense"), rows, note)]


def _roofline(results: Results) -> list[Table]:
    columns = ("kernel", "needs per activation", "memory, ns", "arithmetic, ns", "measured, ns", "of the limit")
    rows = tuple(map(_kernel_row, results.section("roofline")))
    note = (
        "The limit is max(bytes / copy, words / Philox + exponentials / (1 - e^-x) + flops / multiply-add) at the"
        " speeds of the table below. Both the limit and the last column are of the fastest rounds."
    )
    speeds = tuple(_speed_row(name, value) for name, value in results.ceilings.items())
    best = "The best of the rounds, on all threads of the run; a copy counts the bytes read and written."
    return [
        Table("roofline", "Roofline: kernels", columns, rows, note),
        Table("roofline", "Roofline: this machine", ("operation", "speed"), speeds, best),
    ]


def _kernel_row(r: Record) -> tuple[str, ...]:
    limits = (number(r.details[name]) if name in r.details else "–" for name in ("memory", "arithmetic"))
    share = f"{100 / r.ratio.best:.0f} %" if r.ratio else "–"
    return r.name, _need_text(r.details), *limits, spread_text(r.value), share


def _need_text(details: Mapping[str, float]) -> str:
    needs = ((details[kind], kind) for kind in ("bytes", "words", "exponentials", "flops"))
    return ", ".join(f"{n:g} {kind.removesuffix('s') if n == 1 else kind}" for n, kind in needs if n)


def _speed_row(name: str, value: float) -> tuple[str, str]:
    operation, _, unit = name.partition(", ")
    return operation, f"{number(value)} {unit}"


_LAYOUTS: Final[Mapping[str, Callable[[Results], list[Table]]]] = {
    "sampler": _sampler,
    "pass": _pass,
    "calls": _calls,
    "gradients": _gradients,
    "scaling": _scaling,
    "memory": _memory,
    "roofline": _roofline,
}


def compare(new: Results, old: Results) -> Table:
    """Lay out the ratio of new to old of every record that both runs have.

    ``beyond the quartiles`` says that the two runs' quartiles do not overlap.

    Raises:
        ValueError: if they have none in common.
    """
    before = {record.key: record for record in old.records}
    rows = tuple(
        (f"{r.section}: {r.case}: {r.name}", number(before[r.key].value.median), number(r.value.median), r.unit,
         f"{r.value.median / before[r.key].value.median:.2f} ×", _change(r.value, before[r.key].value))
        for r in new.records if r.key in before
    )  # fmt: skip
    if not rows:
        raise ValueError("`compare`: the two runs have no measurement in common; were both quick, or both full?")
    differ = [name for name in ("processor", "threads", "vectors") if new.machine[name] != old.machine[name]]
    note = f"The machines differ: {', '.join(differ)}." if differ else ""
    return Table("compare", "New against old", ("measurement", "old", "new", "unit", "new / old", ""), rows, note)


def _change(new: Spread, old: Spread) -> str:
    if new.high < old.low:
        return "less, beyond the quartiles"
    return "more, beyond the quartiles" if new.low > old.high else ""


def to_markdown(results: Results) -> str:
    """Write all tables and the conditions as Markdown."""
    blocks = [conditions(results)]
    for table in tables(results):
        blocks += [f"### {table.title}", markdown_table(table.columns, table.rows)]
        blocks += [table.note] if table.note else []
    blocks += ["Left out: " + "; ".join(results.left_out) + "."] if results.left_out else []
    return "\n\n".join(blocks) + "\n"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Write a table in Markdown: `words` columns on the left, then numbers on the right."""
    marks = ["---"] * words + ["---:"] * (len(columns) - words)
    lines = [columns, marks, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_between(page: str, begin: str, end: str, content: str) -> str:
    """Replace what is between two marks of a page.

    Raises:
        ValueError: if the page does not hold both marks in this order.
    """
    before, found, rest = page.partition(begin)
    _, also_found, after = rest.partition(end)
    if not found or not also_found:
        raise ValueError(f"the page must hold the lines {begin!r} and {end!r}, in this order")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


def options_text(options: Mapping[str, Any]) -> dict[str, str]:
    """Write the sizes and rounds of a run for people."""
    return {name.replace("_", " "): _value_text(value) for name, value in options.items()}


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_value_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return ("; " if nested else ", ").join(map(_value_text, value))
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Measure the speed and memory of saplab against what people would use instead, in interleaved rounds.

    python benchmarks/bench.py [--quick] [--only sampler,pass,calls,gradients,scaling,memory,roofline] [--threads 2]

The sampler, passes under every defence, calls on tiny maps, Monte Carlo gradients, scaling, peak memory and the
distance to this machine's limits. Prints tables, and writes results.json, report.html with charts, and tables.md. See
docs/performance.md.
"""

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from suite.page import rewrite_page, write_files, write_results
from suite.plan import Plan
from suite.results import Results, read_results
from suite.run import SECTIONS, run
from suite.tables import Table, compare, conditions, tables

from saplab.system.memory import keep_freed_memory

_PIPE_WIDTH = 140  # columns


def main(words: Sequence[str] | None = None) -> None:
    """Measure, or read what was measured; print it, and write the files."""
    parser = _parser()
    options = parser.parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("suite").setLevel(logging.INFO)
    try:
        old = read_results(options.compare) if options.compare else None
        results = read_results(options.stored) if options.stored else None
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if options.markdown and options.stored is None and set(options.only) != set(SECTIONS):
        parser.error("`--markdown` writes all tables of a page: measure all sections, without `--only`")
    if results is None and options.device == "cuda" and not torch.cuda.is_available():
        parser.error("`--device` is cuda, but PyTorch finds no GPU here")
    results = results or _measure(options)
    _report(options, results, old)


def _measure(options: argparse.Namespace) -> Results:
    """Measure the sections asked for; those finished are on the disk, should the run be interrupted."""
    keep_freed_memory()
    count = options.threads or torch.get_num_threads()
    plan = Plan.quick(options.device, count) if options.quick else Plan(options.device, count)
    return run(plan, options.only, partial(write_results, out=options.out))


def _report(options: argparse.Namespace, results: Results, old: Results | None) -> None:
    console = Console(stderr=options.json, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    shown = tables(results)
    try:
        shown += [compare(results, old)] if old else []
    except ValueError as error:
        console.print(f"not compared: {error}")
    for table in shown:
        console.print(_shown(table))
        console.print(Text(f"{table.note}\n" if table.note else "", "dim"))
    for text in results.left_out:
        console.print(f"left out: {text}")
    console.print(conditions(results), "\n")
    for path in write_files(results, options.out):
        console.print(str(path), soft_wrap=True)
    if options.markdown:
        rewrite_page(options.markdown, results)
    if options.json:
        print(results.to_json().decode())


def _shown(table: Table) -> RichTable:
    """Lay out a table for the terminal, names on the left and numbers on the right."""
    shown = RichTable(title=Text(table.title), title_justify="left")
    for k, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="right" if k else "left")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_sections, default=tuple(SECTIONS), help="sections, joined by commas")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds: less than a minute")
    parser.add_argument(
        "--threads", type=_at_least_one, help="of PyTorch and the kernels; by default PyTorch's own number"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("saplab-bench"), help="folder for the files")
    parser.add_argument(
        "--from", dest="stored", type=Path, metavar="OLD.json", help="show these results; measure nothing"
    )
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="print the ratios to an earlier run")
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE.md", help="put the tables between the marks of this page"
    )
    parser.add_argument("--json", action="store_true", help="write the results as JSON to stdout")
    return parser


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(text.replace(" ", "").split(","))
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"must name some of {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()

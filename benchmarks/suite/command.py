"""``saplab bench``: what the sampler, passes and gradients cost here, beside what people would use instead."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from saplab.cli.console import Console
    from suite import Results

_OUT = Path("saplab-bench")


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("bench")(bench)


def bench(
    only: Annotated[
        str, typer.Option(help="Some of sampler, pass, gradients, scaling, memory, roofline; joined by commas.")
    ] = "",
    quick: Annotated[bool, typer.Option(help="Smaller sizes and fewer rounds: less than a minute.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of PyTorch and the kernels; by default PyTorch's own number.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html and tables.md.")] = _OUT,
    stored: Annotated[
        Path | None, typer.Option("--from", metavar="OLD.json", help="Show these results instead of measuring.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(metavar="OLD.json", help="Print ratios to an earlier run.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="PAGE.md", help="Put the tables between the marks of this page too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Give the results as JSON on stdout.")] = False,
) -> None:
    """Measure speed and memory against what people would use instead.

    The sampler, passes under every defence, Monte Carlo gradients, scaling, peak memory and the distance to this
    machine's limits, in interleaved rounds. Writes results.json, a page with charts, and tables in Markdown.
    """
    from saplab.cli.console import Console
    from suite import compare as compare_runs
    from suite import read_results, rewrite_page, write_files

    console = Console(as_json)
    old = read_results(compare) if compare else None
    results = read_results(stored) if stored else _measure(only, quick, threads, device, out, console)
    _show(results, console)
    if old:
        console.show_table(compare_runs(results, old))
    files = write_files(results, out)
    if markdown:
        rewrite_page(markdown, results)
    console.say("\n" + "\n".join(map(str, (*files, *([markdown] if markdown else ())))))
    if as_json:
        console.emit_json(results.to_json())


def _measure(only: str, quick: bool, threads: int | None, device: str, out: Path, console: "Console") -> "Results":
    """Measure the sections asked for; what is known after each is on the disk, should the run be interrupted."""
    import torch

    from suite import SECTIONS, Plan, check, run, write_results

    sections = tuple(only.replace(" ", "").split(",")) if only else SECTIONS
    check(sections, device)
    count = threads or torch.get_num_threads()
    plan = Plan.quick(device, count) if quick else Plan(device, count)
    with console.progress("sections", len(set(sections))) as advance:

        def done(known: "Results") -> None:
            write_results(known, out)
            advance()

        return run(plan, sections, lambda text: advance(0, now=text), done)


def _show(results: "Results", console: "Console") -> None:
    from suite import conditions, tables

    for table in tables(results):
        console.show_table(table)
    for text in results.left_out:
        console.say(f"left out: {text}")
    console.say(conditions(results))

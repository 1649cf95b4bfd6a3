"""The command line: one file a verb, a function of the same name; heavy imports wait until a verb runs."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from saplab.cli.errors import end_on_interrupt, guarded, leave, show_own_warnings
from saplab.cli.options import Grouped, with_homes
from saplab.cli.verbs import (
    benchmark,
    certify,
    demo,
    doctor,
    evaluate,
    play,
    report,
    reproduce,
    runs,
    sites,
    train,
    train_agent,
    zoo,
)
from saplab.system.memory import keep_freed_memory

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,  # Rich's help takes 0.2 s to import
    pretty_exceptions_enable=False,
    help="Put stochastic defences on trained networks and attack them with adversaries that know the randomness.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"saplab {version('saplab')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _verb in (
    demo.demo, evaluate.evaluate, certify.certify, reproduce.reproduce,
    benchmark.benchmark, sites.sites, train.train, zoo.zoo,
    train_agent.train_agent, play.play, report.report, runs.runs, doctor.doctor,
):  # fmt: skip
    app.command(_verb.__name__.replace("_", "-"), cls=Grouped)(with_homes(_verb))


def main() -> None:
    """Run the command line and exit: 0, 2 for a user's mistake, 130 on Ctrl-C."""
    end_on_interrupt()
    show_own_warnings()
    keep_freed_memory()
    if sys.stderr is None:  # closed by whoever started this: 2>&-
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without λ shows ?
    leave(guarded(lambda: app(prog_name="saplab", standalone_mode=False)))


__all__ = ["app", "main"]

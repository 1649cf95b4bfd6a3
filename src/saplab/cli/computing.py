"""Compute a job's cells, and say how it goes: what `evaluate`, `reproduce`, `play` and `demo` share."""

import hashlib
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from saplab.system.words import counted, readable

if TYPE_CHECKING:
    from saplab.cli.console import Console
    from saplab.evaluation.evaluate import Job
    from saplab.runs import Cell, Request, Store

_MOST_FAILURES = 10  # lines


def command_line() -> str:
    """Return the command that was given."""
    return readable(shlex.join(["saplab", *sys.argv[1:]]))


def program() -> str:
    """Return what runs this program from the user's shell, which may know it through uv alone."""
    return "uv run saplab" if "UV_RUN_RECURSION_DEPTH" in os.environ else "saplab"


def open_store(job: "Job", folder: Path, console: "Console") -> "Store":
    """Rehearse a job, open its run folder and tell what is in it."""
    store = cast("Store", job.open(folder))
    found = store.survey()
    for line in filter(None, (*job.request.notes, store.note, *found.foreign)):
        console.say(line)
    for problem in found.damaged:
        console.say(f"{problem}; computing it again")
    if found.stored:
        console.say(f"{store.root}: {len(found.stored)} of {_cells(job)} already there")
    return store


def fill(job: "Job", store: "Store", console: "Console") -> bool:
    """Compute what a store lacks, and return whether nothing failed; exit with code 1 if the store stays empty."""
    failed = job.run(store, console.progress, console.note)
    for failure in failed[:_MOST_FAILURES]:
        first = failure.group[0]
        where = f"{first.ranges} {first.start}..{first.stop}"
        console.say(f"failed after {failure.tries} tries: {where}: {failure.reason}")
    if not failed:
        return True
    hint = f"saplab runs {store.root} lists them, and the same command retries"
    console.say(f"{len(failed)} groups of cells failed; {hint}")
    if not store.survey().stored:
        raise typer.Exit(1)
    return False


def show_plan(job: "Job", folder: Path, console: "Console", alone: bool = True) -> None:
    """Show what a job would compute: curves, network passes, and the longest time that they may take here.

    What the run folder `folder` holds already is not counted. A plan that stands `alone`, with no run to follow, also
    tells what the run would: the battery's version and what the rehearsal found; with ``--json`` it is JSON.
    """
    from saplab.evaluation.budget import budget_of
    from saplab.runs import groups_of

    job.inputs.rehearse(job.request.cells)
    for note in job.request.notes if alone else ():
        console.say(note)
    groups = counted(len(groups_of(job.request.cells)), "group")
    console.say(f"{counted(len(job.request.curves), 'curve')}, {_cells(job)} in {groups} of shared images:")
    for curve in job.request.curves:
        console.say(f"  {curve.label}")
    todo = what_is_lacking(job, folder, console)
    budget = budget_of(cast("Any", todo), job.inputs) if todo else None
    if budget is not None:
        console.say(budget.passes)
        console.say(budget.time)
    if alone and console.json:
        cost = asdict(budget) if budget else {"forward": 0, "backward": 0, "seconds": 0.0}
        console.emit_json({**plan_of(job, folder, len(todo)), **cost})


def plan_of(job: "Job", folder: Path, lacking: int) -> dict[str, object]:
    """Return a plan as JSON has it: the run folder, the curves, and how many cells there are and are lacking."""
    return {"run": str(folder), "curves": job.request.names, "notes": job.request.notes,
            "cells": len(job.request.cells), "to_compute": lacking}  # fmt: skip


def what_is_lacking(job: "Job", folder: Path, console: "Console") -> "list[Cell]":
    """Return the cells of a job that have no file in the folder of its run, and tell of those that have one."""
    from saplab.runs import Store

    store = Store(folder, job.request)
    todo = [cell for cell in job.request.cells if not store.path(cell).exists()]
    if there := len(job.request.cells) - len(todo):
        console.say(f"{folder}: {there} of {_cells(job)} already there{'; the rest:' if todo else ''}")
    return todo


def _cells(job: "Job") -> str:
    return counted(len(job.request.cells), "cell")


def default_folder(verb: str, request: "Request") -> Path:
    """Return a run folder named by the request's cells, so that the same command finds its own again."""
    digest = hashlib.sha256("".join(cell.digest for cell in request.cells).encode()).hexdigest()[:10]
    return Path("runs") / f"{verb}-{digest}"

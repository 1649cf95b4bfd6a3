"""``saplab zoo``: the networks of the package: list them, measure them again, train them all."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli import options
from saplab.cli.options import option
from saplab.cli.training import tell
from saplab.cli.verbs.train import Job, run
from saplab.system.folder import inside
from saplab.system.words import counted, did_you_mean

if TYPE_CHECKING:
    from saplab.data.dataset import Records
    from saplab.models.packaged import Measured, Packaged
    from saplab.training.choice import Choice

_DIFFERS = 1


def zoo(
    only: Annotated[str | None, option(options.NETWORK, "One network, by name, instead of all.")] = None,
    check: Annotated[
        bool, option(options.JUDGING, "Measure again, and compare with the stored numbers.", "--check")
    ] = False,
    train: Annotated[
        bool, option(options.TRAINING, "Train, measure, and write each network's files.", "--train")
    ] = False,
    data: Annotated[str, option(options.DATA, "cifar10:DIR; --check measures less without, --train needs it.")] = "",
    preset: Annotated[str, option(options.TRAINING, "For --train: paper, small or smoke.")] = "small",
    out: Annotated[Path, option(options.OUTPUT, "For --train: a folder for the runs, one each.")] = Path("runs/train"),
    into: Annotated[Path | None, option(options.OUTPUT, "For --train: where the files go; by default OUT/zoo.")] = None,
    precision: Annotated[
        str | None, option(options.MACHINE, "For --train: instead of the preset's, as in train.")
    ] = None,
    full: Annotated[
        bool, option(options.TRAINING, "For --train: attack all test images, not the sample.", "--full")
    ] = False,
    threads: options.Threads = None,
    device: Annotated[str, option(options.MACHINE, "For --train: auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: options.Json = False,
) -> None:
    """List the networks of the package, or train them.

    --check measures them again, --train trains them all. Accuracies are of the networks without a defence; PGD-20
    is white-box, with one random start.
    """
    if check and train:
        raise ValueError("`check` and `train` exclude each other")
    options.check_number("threads", threads)
    if train:
        into = into or inside(out, "zoo", folder=True)
        _train(_choices(preset, only, precision), data, out, into, full, threads, device)
        return
    facts = _chosen(only)
    if check:
        _check(facts, data, threads, as_json)
    elif as_json:
        typer.echo(json.dumps({name: asdict(entry) for name, entry in facts.items()}))
    else:
        typer.echo(_table(facts))


def _chosen(only: str | None) -> "Mapping[str, Packaged]":
    from saplab.models.zoo import PACKAGED

    if only is not None and only not in PACKAGED:
        raise ValueError(f"`only` must be one of {', '.join(PACKAGED)}, got {only!r}{did_you_mean(only, PACKAGED)}")
    return PACKAGED if only is None else {only: PACKAGED[only]}


def _table(facts: "Mapping[str, Packaged]") -> str:
    from saplab.evaluation.text import grid
    from saplab.models.packaged import packaged_bytes

    head = ("network", "recipe", "clean", "PGD-20 λ=2", "PGD-20 λ=8", "MB", "sha256")
    rows = []
    for name, entry in facts.items():
        size = f"{len(packaged_bytes(name, facts)) / 1e6:.2f}"
        accuracies = (_accuracy(entry, strength) for strength in (0, 2, 8))
        rows.append((name, f"{entry.recipe}, {entry.preset}", *accuracies, size, entry.sha256[:12]))
    return f"Accuracy in %, with 95 % Wilson intervals\n{grid(head, rows)}"


def _accuracy(entry: "Packaged", strength: float) -> str:
    from saplab.training.card import wilson

    found = next((row for row in entry.measured if row.strength == strength), None)
    if found is None:
        return "–"
    low, high = wilson(found)
    return f"{100 * found.correct / found.images:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _check(facts: "Mapping[str, Packaged]", data: str, threads: int | None, as_json: bool) -> None:
    """Measure again what is stored; exit with 1 if a number differs by more than rounding explains."""
    from saplab.rng.threads import torch_threads
    from saplab.training.zoo import agrees

    test = _test_images(data) if data else None
    results = []
    with torch_threads(threads):
        for name, entry in facts.items():
            for stored, found in _measured_again(name, entry, test):
                ok = agrees(stored, found)
                results.append({"network": name, **asdict(found), "stored": stored.correct, "ok": ok})
                tell(_comparison(name, stored, found, ok))
    if as_json:
        typer.echo(json.dumps(results))
    differing = sum(not row["ok"] for row in results)
    numbers, networks = counted(len(results), "number"), counted(len(facts), "network")
    tell(f"{numbers} of {networks} measured again, {len(results) - differing} as stored")
    if differing:
        raise typer.Exit(_DIFFERS)


def _measured_again(name: str, entry: "Packaged", test: "Records | None") -> "Iterator[tuple[Measured, Measured]]":
    from saplab.models.zoo import load_model
    from saplab.training.zoo import measure_again

    model = load_model(name)
    for stored in entry.measured:
        if stored.data == "sample" or test is not None:
            yield stored, measure_again(model, stored, test)


def _comparison(name: str, stored: "Measured", found: "Measured", ok: bool) -> str:
    what = "clean" if stored.strength == 0 else f"{stored.attack} λ={stored.strength:g}"
    verdict = "as stored" if stored.correct == found.correct else f"stored {stored.correct:,}"
    return f"{name}, {what}: {found.correct:,} of {found.images:,} right, {verdict}{'' if ok else ': DIFFERS'}"


def _test_images(data: str) -> "Records":
    from saplab.data.load import cifar10_root, load_records

    cifar10_root(data)
    return load_records(data, "test")


def _choices(preset: str, only: str | None, precision: str | None) -> "Mapping[str, Choice]":
    from saplab.training.zoo import choose

    choices = {name: replace(choice, precision=precision) for name, choice in choose(preset, only).items()}
    for choice in choices.values():
        choice.resolve()  # refuses what does not fit before any file is read
    return choices


def _train(
    choices: "Mapping[str, Choice]", data: str, out: Path, into: Path, full: bool, threads: int | None, device: str
) -> None:
    """Train each network, or go on where it stopped, or read what is finished; then measure it and write its files."""
    from saplab.data.load import load_records
    from saplab.training.card import export
    from saplab.training.place import joined
    from saplab.training.zoo import measure

    test = _test_images(data)
    images = load_records(data)
    with joined(device) as place:
        for name, choice in choices.items():
            tell(f"{name}: {choice.command(processes=place.world)}")
            folder = inside(out, name, folder=True)
            model, finished = run(Job(choice, images, test, folder, threads=threads), place)
            if place.is_first:
                measured = (*finished.measured, *measure(model, test if full else None))
                facts = export(model, replace(finished, measured=measured), into, name)
                tell(f"{name}: {', '.join(f'{_accuracy(facts, row.strength)} %' for row in facts.measured)}")

"""``saplab benchmark``: published stochastic defences by one protocol, one's own beside them, and the leaderboard."""

import re
import shlex
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saplab.cli import options
from saplab.cli.console import Console
from saplab.cli.options import option
from saplab.system.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from saplab.benchmark.card import Card
    from saplab.benchmark.entries import Entry
    from saplab.benchmark.run import Run

_ENTRY, _MINE = "The entry", "mine"
_RUNS = Path("runs/benchmark")


def benchmark(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Entries, or all; without any they are listed.")
    ] = None,
    tier: Annotated[str, option(_ENTRY, "small (two CPU cores) or full (one GPU).")] = "small",
    model: Annotated[
        str, option(_ENTRY, f"For an entry of one's own: {options.MODEL[0].lower()}{options.MODEL[1:]}")
    ] = "",
    weights: options.Weights = None,
    defense: options.Defence = "",
    sites: options.Sites = "",
    name: Annotated[str, option(_ENTRY, "What an entry of one's own is called.")] = _MINE,
    data: Annotated[str, option(options.DATA, "sample, or cifar10:DIR for the whole test set.")] = "sample",
    check: Annotated[
        bool, option(options.OUTPUT, "Compute stored cards again, and say whether they agree.", "--check")
    ] = False,
    leaderboard: Annotated[
        Path | None, option(options.OUTPUT, "Write the page and the Markdown of all stored cards into this folder.")
    ] = None,
    cards: Annotated[
        list[Path] | None,
        option(options.OUTPUT, "For --leaderboard and --check: further cards, as files or folders of runs."),
    ] = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    engine: options.EngineName = "local",
    workers: options.Workers = None,
    address: options.Address = None,
    out: Annotated[Path, option(options.OUTPUT, "Folder for the runs, one for each tier and entry.")] = _RUNS,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Measure stochastic defences by one protocol.

    Each entry leaves a card (card.json, card.md) and its runs, and goes on where it was stopped. --model and --defense
    make a card for a defence of one's own.

    --check ends with exit code 1 where a recomputed card does not agree with the stored one.
    """
    from saplab.benchmark.board import stored_cards
    from saplab.benchmark.entries import ALL
    from saplab.benchmark.protocol import PROTOCOL

    console, chosen = Console(as_json), PROTOCOL.tier(tier)
    entries = _entries(tuple(names or ()), model, weights, defense, sites, name)
    if entries and leaderboard is not None:
        raise ValueError("`leaderboard` is written of stored cards: give it without entries")
    asked = {"threads": threads, "workers": workers, "address": address, "dry-run": dry_run, "out": out != _RUNS,
             "device": device != "auto", "engine": engine != "local"}  # fmt: skip
    if leaderboard is not None and (given := [name for name, value in asked.items() if value]):
        raise ValueError(f"`leaderboard` computes nothing: give it without `{given[0]}`")
    if cards and leaderboard is None and not check:
        raise ValueError("`cards` are further cards for `leaderboard` and `check`: give one of them too")
    if check and not entries:
        raise ValueError("`check` computes stored cards again: name their entries, or all")
    if leaderboard is not None:
        _write(leaderboard, [*stored_cards(tier).values(), *_more(cards)], console)
    elif not entries:
        _list(tier, console)
    else:
        place = options.ready_place(device, threads, engine, workers, address)
        known = {**stored_cards(tier), **{card.name: card for card in _more(cards)}} if check else None
        if known is not None:
            entries = _with_a_card(entries, known, tier, every=names == [ALL])
        agreed = [_one(_run(entry, chosen.name, data, place), out, known, dry_run, console) for entry in entries]
        if not all(agreed):
            raise typer.Exit(1)


def _entries(
    names: tuple[str, ...], model: str, weights: Path | None, defense: str, sites: str, name: str
) -> "tuple[Entry, ...]":
    """Return the entries of the package that are named, or the one of one's own."""
    from saplab.benchmark.card import NAME
    from saplab.benchmark.entries import TAKEN, Entry, chosen, plain_name
    from saplab.benchmark.methods import OWN

    if not (model or defense):
        if weights is not None or sites or name != _MINE:
            raise ValueError(
                "`weights`, `sites` and `name` belong to an entry of one's own: give `model` or `defense` too"
            )
        return chosen(names)
    options.check_sites(sites, bool(defense))
    if names:
        raise ValueError("`model` and `defense` make an entry of one's own: give no names beside them, but --name")
    if plain_name(name) in TAKEN or not re.match(NAME, name):
        wanted = (
            "a name for files (letters of ASCII, digits and . + - _), by a letter or a digit another than all entries'"
        )
        raise ValueError(f"`name` must be {wanted}, got {name!r}")
    places = (sites,) if sites else ()
    return (Entry(name, OWN, (model or "preact-resnet20-dense",), (), defense, places, weights=weights),)


def _with_a_card(
    entries: "tuple[Entry, ...]", known: "Mapping[str, Card]", tier: str, every: bool
) -> "tuple[Entry, ...]":  # fmt: skip
    """Return the entries that can be checked: of all entries those with a card, of named ones each."""
    lacking = [entry.name for entry in entries if entry.name not in known]
    if lacking and not every:
        raise ValueError(f"`check` needs a stored card, and {', '.join(lacking)} has none in the tier {tier}")
    return tuple(entry for entry in entries if entry.name in known)


def _run(entry: "Entry", tier: str, data: str, place: options.Place) -> "Run":
    from saplab.benchmark.protocol import PROTOCOL
    from saplab.benchmark.run import Run, load_images

    chosen = PROTOCOL.tier(tier)
    images, command = load_images(chosen, data), _command(entry, tier, data)
    return Run(entry, chosen, images, place.device, place.engine, command, place.kind)


def _command(entry: "Entry", tier: str, data: str) -> str:
    """Return the command that makes an entry's card again, whatever was asked for beside it."""
    words = ["saplab", "benchmark"]
    if entry.is_own:
        given = {"model": entry.networks[0], "weights": entry.weights, "defense": entry.defense,
                 "sites": "".join(entry.sites), "name": entry.name}  # fmt: skip
        words += [part for key, value in given.items() if value for part in (f"--{key}", str(value))]
    else:
        words.append(entry.name)
    return shlex.join([*words, "--tier", tier, *(["--data", data] if data != "sample" else [])])


def _one(run: "Run", out: Path, known: "Mapping[str, Card] | None", dry_run: bool, console: Console) -> bool:
    """Compute one entry, or show what that would cost; return whether it agrees with the card that is `known`."""
    from saplab.cli.computing import show_plan
    from saplab.runs.results import SUFFIX
    from saplab.system.folder import inside

    name, tier = run.entry.name, run.tier.name
    folder = inside(out, f"{'' if known is None else 'check/'}{tier}/{name}", folder=True)
    if dry_run:
        for part, job in run.jobs().items():
            console.say(f"{name}, {part}:")
            show_plan(job, folder / part, console)
        return True
    earlier = 0 if known is None else sum(1 for _ in folder.rglob(f"*{SUFFIX}"))
    if earlier:
        console.say(f"{name}: {folder} holds {counted(earlier, 'cell')} of an earlier check, which"
                    f" {'is' if earlier == 1 else 'are'} not computed again; remove it for that")  # fmt: skip
    card = run.card(folder, console.progress, lambda part: console.say(f"{name}: {part}"), progress=not console.json)
    _tell(card, folder, console)
    return known is None or _agrees(known[name], card, earlier, console)


def _agrees(stored: "Card", card: "Card", earlier: int, console: Console) -> bool:
    """Return whether a card agrees with the stored one, and show it; `earlier` cells of it were not computed now."""
    from saplab.benchmark.check import compare

    found = compare(stored, card)
    console.say(f"{card.name}: {found.text}")
    for words in found.words:
        console.say(f"{card.name}: not compared on a machine of another kind: {words}")
    if console.json:
        console.emit_json({"entry": card.name, "agrees": found.agrees, "same_kind": found.same_kind,
                           "earlier_cells": earlier, "compared": found.compared, "largest": found.largest,
                           "differences": list(found.differences), "words": list(found.words)})  # fmt: skip
    return found.agrees


def _tell(card: "Card", folder: Path, console: Console) -> None:
    """Show a card's sentences, and where it is."""
    import msgspec

    from saplab.benchmark.words import share_text

    console.say(f"\n{card.name}: clean {share_text(card.clean.averaged)} %")
    for threat in card.threats:
        console.say(threat.sentence)
    if card.published is not None:
        void = "; that evaluation is void" if card.published.void else ""
        console.say(f"As the paper evaluates: {card.published.percent:.1f} %{void}.")
    console.say(f"Card: {folder / 'card.md'}\n")
    if console.json:
        console.emit_json({"folder": str(folder), "card": msgspec.to_builtins(card)})


def _more(places: list[Path] | None) -> "list[Card]":
    from saplab.benchmark.board import read_cards

    return [card for place in places or () for card in read_cards(place)]


def _write(folder: Path, cards: "list[Card]", console: Console) -> None:
    from saplab.benchmark.board import refuse_impostors, write_board
    from saplab.benchmark.plausible import is_current

    refuse_impostors(cards)
    others = [card for card in cards if not is_current(card)]
    for card in others:
        console.say(f"{card.name} is left out: it is of protocol {card.protocol}, battery {card.battery}")
    files = write_board(cards, folder)
    console.say(f"{files[0]} and {len(files) - 1} more files")
    if console.json:
        console.emit_json({"files": list(map(str, files)), "left_out": [card.name for card in others]})


def _list(tier: str, console: Console) -> None:
    """Show every entry, and what its stored card says."""
    from saplab.benchmark.board import stored_cards
    from saplab.benchmark.entries import ENTRIES
    from saplab.benchmark.protocol import PROTOCOL
    from saplab.benchmark.words import ball

    stored = stored_cards(tier)
    records = [_record(entry, stored.get(entry.name)) for entry in ENTRIES.values()]
    if console.json:
        console.emit_json({"tier": tier, "entries": records})
    balls = {str(threat.norm): ball(threat.norm, threat.eps[-1]) for threat in PROTOCOL.threats}
    if cards := [record for record in records if record["status"] == "card"]:
        console.say(f"Tier {tier}: accuracy in %, what all attacks leave\n{_cards_text(cards, balls)}\n")
    console.say("No card yet; saplab benchmark NAME makes one:")
    for title in dict.fromkeys(record["title"] for record in records):
        waiting = [one for one in records if one["title"] == title and one["status"] != "card"]
        if waiting:
            console.say(_names_text(title, waiting))


def _cards_text(records: list[dict[str, Any]], balls: dict[str, str]) -> str:
    """Lay out what the stored cards say, a line for each entry."""
    from saplab.evaluation.text import grid

    numbers = [[_shown(record[column]) for column in ("entry", "clean", *balls)] for record in records]
    masked = (record["masked"].partition(" (")[0].replace("masked", "yes") for record in records)
    head = ("entry", "clean", *balls.values(), "masked")
    return grid(head, [[*row, found] for row, found in zip(numbers, masked, strict=True)])


def _names_text(title: str, records: list[dict[str, Any]]) -> str:
    """Return a defence and its entries that have no card, in lines that break between names."""
    from saplab.evaluation.text import width

    waiting = [record["entry"] + _lack(record["status"]) for record in records]
    names = fill(", ".join(waiting), width(), initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return f"{title}\n{names}"


def _lack(status: str) -> str:
    return f" ({status})" if status.startswith("lacks") else ""


def _record(entry: "Entry", card: "Card | None") -> dict[str, Any]:
    from saplab.benchmark.protocol import PROTOCOL
    from saplab.benchmark.words import masked_text

    status = "card" if card else f"lacks {', '.join(entry.lacking)}" if entry.lacking else "no card yet"
    known = {"entry": entry.name, "title": entry.facts.title, "network": entry.network, "defense": entry.defense}
    left = {threat.norm: card.left(threat.norm, threat.eps[-1]) if card else None for threat in PROTOCOL.threats}
    numbers = {str(norm): found.worst.percent if found else None for norm, found in left.items()}
    numbers["clean"] = card.clean.averaged.percent if card else None
    return {**known, **numbers, "masked": masked_text(card) if card else None, "status": status}


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)

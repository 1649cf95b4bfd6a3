"""From names on the command line to figures and their networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from saplab.models.zoo import load_model
from saplab.paper.figures import figures
from saplab.paper.plan import study_models
from saplab.paper.study import PRESETS, Figure, Preset, read_study, split_model
from saplab.system.words import did_you_mean

TABLES = ("table1", "table1-beyond")


@dataclass(frozen=True)
class Choice:
    """What is to be reproduced: figures of images, and ``table1``, ``table1-beyond`` or "" for no table.

    `named` tells whether the table was asked for by its own name, not as a part of ``paper`` or ``all``.
    """

    figures: tuple[Figure, ...]
    preset: Preset
    table: str
    named: bool


def choose(names: Sequence[str], preset: str, outside: str = "") -> Choice:
    """Return what names mean: figures, ``table1``, ``table1-beyond``, ``paper``, ``all`` and TOML files of studies.

    `outside` is a network from elsewhere for ``architectures``, such as ``resnet20@FILE``. Raises ValueError for an
    unknown name or preset, or a file that holds no study.
    """
    if preset not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {preset!r}")
    known = figures(PRESETS[preset], outside)
    groups = {"all": list(known), "paper": [name for name in known if name.startswith("fig")]}
    found: dict[str, Figure] = {}

    def add(source: str, figures: Mapping[str, Figure]) -> None:
        if taken := [name for name, figure in figures.items() if found.get(name, figure) != figure]:
            raise ValueError(f"{source} names a figure {taken[0]!r}, which another study has already")
        found.update(figures)

    for name in names:
        if name.endswith(".toml"):
            add(name, {figure.name: figure for figure in read_study(name)})
        elif name in known or name in groups:
            add(name, {member: known[member] for member in groups.get(name, [name])})
        elif name not in TABLES:
            every = [*groups, *known, *TABLES]
            wanted = f"`name` must be one of {', '.join(every)} or a .toml file, got {name!r}"
            raise ValueError(wanted + did_you_mean(name, every))
    named = [table for table in reversed(TABLES) if table in names]
    table = named[0] if named else TABLES[0] if {*names} & {*groups} else ""
    return Choice(tuple(found.values()), PRESETS[preset], table, bool(named))


def load_networks(chosen: Sequence[Figure]) -> tuple[tuple[Figure, ...], dict[str, nn.Module], dict[str, list[str]]]:
    """Load the networks of figures, by what lines call them.

    Returns the figures whose networks are there, the networks, and what each other figure lacks; ValueError if no
    figure is left.
    """
    models, missing = {}, {}
    for spec in study_models(chosen):
        try:
            models[spec] = load_model(*split_model(spec))
        except ValueError as error:
            missing[spec] = error
    lacking = {figure.name: [spec for spec in study_models([figure]) if spec in missing] for figure in chosen}
    left = tuple(figure for figure in chosen if not lacking[figure.name])
    if not left:
        raise next(iter(missing.values()))
    return left, models, {name: specs for name, specs in lacking.items() if specs}

"""From figures to curves of cells: the one place where the text of a line becomes objects."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from saplab.attacks import MonteCarlo, parse_attackers, radii_of
from saplab.defenses import parse_defenses
from saplab.evaluation.plan import attacked, claim_of, curve
from saplab.paper.study import Figure, Line, Preset, threat_of
from saplab.runs import Cell, Curve, ImageCell, Network

C = TypeVar("C", bound=Cell)
Networks = Mapping[str, Network]  # without defences, by what lines call them


def study_models(figures: Iterable[Figure]) -> tuple[str, ...]:
    """Return the networks that figures speak of, each once."""
    lines = [line for figure in figures for line in figure.lines]
    sources = [line.adversary for line in lines if line.adversary not in ("self", "dense")]
    return tuple(dict.fromkeys([*(line.model for line in lines), *sources]))


def study_curves(figures: Iterable[Figure], preset: Preset, whole: ImageCell, networks: Networks) -> tuple[Curve, ...]:
    """Plan the curves of figures; cells that several figures share are the same cells.

    `whole` is a cell over all examples, in which networks, attack, radii and passes are replaced. Raises ValueError for
    an attack or a defence that cannot be read.
    """
    return tuple(_curve(figure, line, preset, whole, networks) for figure in figures for line in figure.lines)


def _curve(figure: Figure, line: Line, preset: Preset, whole: ImageCell, networks: Networks) -> Curve:
    threat = threat_of(figure)
    strengths = figure.strengths or preset.strengths
    radii = radii_of(strengths) if threat.in_steps else strengths
    try:
        cell = cell_of_line(line, replace(whole, eps=radii, threat=threat), networks, preset.samples, preset.passes)
    except ValueError as error:
        raise ValueError(f"{figure.name}, {line.label}: {error}") from None
    made = curve(line.label, cell, preset.batch, claim=claim_of(cell), figure=figure.name)
    return replace(made, paper=line.paper)


def cell_of_line(line: Line, whole: C, networks: Networks, samples: int, passes: int) -> C:
    """Return the cell of a line over all examples or games: `whole` with other networks, attack and passes.

    Gradients average `samples` passes, where the line's attack does not say otherwise. Raises ValueError for an attack
    or a defence that cannot be read, or several attacks.
    """
    defender = replace(networks[line.model], defenses=parse_defenses(line.defense))
    attackers = parse_attackers(
        line.attack, MonteCarlo(samples), "self" if line.adversary == "self" else "dense", whole.threat
    )
    if len(attackers) != 1:
        raise ValueError(f"`attack` must name one attack, got {line.attack!r}")
    cell = replace(whole, defender=defender, passes=passes if defender.random else 1)
    cell = attacked(cell, attackers[0])
    if line.adversary in ("self", "dense"):
        return cell
    return replace(cell, adversary=networks[line.adversary])

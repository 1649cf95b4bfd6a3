"""From a request to its cells: one curve is one defender under one attack, cut into ranges of examples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from saplab.attacks import MonteCarlo
from saplab.attacks.batteries import ATTACKS, Adversary, Whose, parse_adversaries, settings_of
from saplab.defenses.specs import defense_label, is_random
from saplab.paper.numbers import paper_accuracies
from saplab.paper.study import Figure, Line, Preset, split_model
from saplab.runs.cell import Cell, Curve, Network


def curve(label: str, whole: Cell, per_cell: int, claim: str = "", seeds: int = 1) -> Curve:
    """Cut the cell over all examples into cells of `per_cell` examples, and name them as one curve.

    Raises:
        ValueError: `per_cell` or `seeds` < 1, or no example.
    """
    if seeds < 1:
        raise ValueError(f"`seeds` must be >= 1, got {seeds}")
    if per_cell < 1:
        raise ValueError(f"`batch_size` must be >= 1, got {per_cell}")
    if whole.stop <= whole.start:
        raise ValueError(f"there must be at least one example, got the range {whole.start}..{whole.stop}")
    starts = range(whole.start, whole.stop, per_cell)
    cells, *repeats = (
        tuple(replace(whole, start=a, stop=min(a + per_cell, whole.stop), seed=whole.seed + k) for a in starts)
        for k in range(seeds)
    )
    return Curve(label, cells, claim, paper_accuracies(whole), tuple(repeats))


def evaluation(
    whole: Cell, adversaries: Sequence[Adversary], per_cell: int, baseline: bool = True, seeds: int = 1
) -> tuple[Curve, ...]:
    """Plan a defended network's evaluation under every adversary, and the undefended network's beside it.

    Args:
        whole: a cell over all examples, of the defended network; its adversary and attack are replaced.
        adversaries: what attacks it.
        per_cell: examples of one cell.
        baseline: whether the undefended network is evaluated too: under its own attacks and, beside several
            adversaries, under the images made for the defended one, which cost it one more pass and fill the game's
            matrix.
        seeds: how often a random network is evaluated anew, with the next seeds.

    Returns:
        The undefended network's own curves, then the defended one's, then those across.
    """
    dense = replace(whole.defender, defense="", sites="")
    own = [_attacked(whole, adversary.against(whole.defender.defense), dense) for adversary in adversaries]
    if not (whole.defender.defense and baseline):
        return _curves(own, per_cell, seeds)
    across = [replace(cell, defender=dense, passes=1) for cell in own]
    alone = [cell for cell in across if cell.adversary == dense]
    plain = (_attacked(replace(whole, defender=dense, passes=1), a.against(""), dense) for a in adversaries)
    alone += [cell for cell in plain if not any(_same_attack(cell, other) for other in alone)]
    return _curves([*alone, *own, *(across if len(own) > 1 else [])], per_cell, seeds)


def study_models(figures: Iterable[Figure]) -> tuple[str, ...]:
    """Name the networks that figures speak of, each once."""
    lines = [line for figure in figures for line in figure.lines]
    sources = [line.adversary for line in lines if line.adversary not in ("self", "dense")]
    return tuple(dict.fromkeys([*(line.model for line in lines), *sources]))


def study(figures: Iterable[Figure], preset: Preset, whole: Cell, digests: Mapping[str, str]) -> tuple[Curve, ...]:
    """Plan the curves of figures; cells that several figures share are the same cells.

    Args:
        figures: what to compute.
        preset: how much of it.
        whole: a cell over all examples; networks, attack, strengths and passes are replaced.
        digests: of the networks that `study_models` names.

    Raises:
        ValueError: an attack or a defence that cannot be read.
    """
    return tuple(_line_curve(figure, line, preset, whole, digests) for figure in figures for line in figure.lines)


def _line_curve(figure: Figure, line: Line, preset: Preset, whole: Cell, digests: Mapping[str, str]) -> Curve:
    defender = Network(split_model(line.model)[0], digests[line.model], line.defense)
    whose: Whose = "self" if line.adversary == "self" else "dense"
    found = parse_adversaries(line.attack, MonteCarlo(preset.samples), whose)
    if len(found) != 1:
        raise ValueError(f"{figure.name}, {line.label}: `attack` must name one attack, got {line.attack!r}")
    passes = preset.passes if is_random(line.defense) else 1
    strengths = figure.strengths or preset.strengths
    cell = replace(whole, defender=defender, passes=passes, strengths=strengths)
    dense = replace(defender, defense="", sites="")
    cell = _attacked(cell, found[0].against(line.defense), dense)
    if line.adversary not in ("self", "dense"):
        cell = replace(cell, adversary=Network(split_model(line.adversary)[0], digests[line.adversary]))
    made = curve(line.label, cell, preset.batch, claim_of(cell))
    return replace(made, paper=line.paper, figure=figure.name)


def is_across(cell: Cell) -> bool:
    """Tell whether an undefended network is attacked with images made for a defended one."""
    return not cell.defender.defense and bool(cell.adversary.defense)


def _attacked(whole: Cell, adversary: Adversary, dense: Network) -> Cell:
    settings = settings_of(adversary.attack)
    source = dense if adversary.whose == "dense" or settings["name"] == "noise" else whole.defender
    return replace(whole, adversary=source, attack=settings, strengths=adversary.strengths or whole.strengths)


def _same_attack(a: Cell, b: Cell) -> bool:
    """Compare what two cells are attacked with, but for whether lost examples are left alone."""
    first, second = ({**cell.attack, "stop_when_lost": None} for cell in (a, b))
    return (first, a.strengths, a.adversary) == (second, b.strengths, b.adversary)


def _curves(cells: Sequence[Cell], per_cell: int, seeds: int) -> tuple[Curve, ...]:
    unique = {cell.digest: cell for cell in cells}.values()
    common = cells[0].strengths

    def repeats(cell: Cell) -> int:
        return seeds if is_random(cell.defender.defense) or is_random(cell.adversary.defense) else 1

    return tuple(curve(label_of(cell, common), cell, per_cell, claim_of(cell), repeats(cell)) for cell in unique)


def label_of(cell: Cell, common: Sequence[float] = ()) -> str:
    """Name a cell's curve: its defender, and what attacks it; strengths where they are not the `common` ones."""
    transfer = "transfer " if cell.adversary.defense != cell.defender.defense and cell.attack["name"] != "noise" else ""
    source = f" from {defense_label(cell.adversary.defense)}" if is_across(cell) else ""
    at = "" if cell.strengths == tuple(common) or not common else f" at λ={_numbers(cell.strengths)}"
    text = attack_text(cell.attack, bool(cell.adversary.defense))
    return f"{defense_label(cell.defender.defense)}: {transfer}{text}{source}{at}"


def attack_text(settings: Mapping[str, Any], defended: bool) -> str:
    """Name an attack for people: kind, steps, samples, backward rule; other settings where they are not the default."""
    name = str(settings["name"])
    if name == "noise":
        return "random noise"
    if name == "square":
        return f"Square-{settings['queries']}" + (f" ×{settings['passes']}" if settings["passes"] > 1 else "")
    samples = settings["samples"]
    heads = {"fgsm": "FGSM" if samples == 1 else "MC-FGSM", "iterative": "iterative"}
    parts = [heads.get(name, f"{name.upper()}-{settings.get('steps')}")]
    if settings["loss"] != "cross-entropy" or name == "apgd":
        parts.append({"cross-entropy": "CE", "dlr": "DLR"}.get(settings["loss"], settings["loss"]))
    if samples > 1:
        parts.append(f"×{samples}")
    if defended:
        parts.append(settings["backward"])
    if settings["average"] != "loss":
        parts.append(f"of {settings['average']}")
    return " ".join(parts + _unusual(settings))


_SHOWN = ("name", "samples", "backward", "average", "loss", "steps", "stop_when_lost")


def _unusual(settings: Mapping[str, Any]) -> list[str]:
    """Give the settings that a label does not speak of and that are not the attack's defaults."""
    usual = settings_of(ATTACKS[settings["name"]]())
    return [f"{key}={value}" for key, value in settings.items() if key not in _SHOWN and value != usual[key]]


def claim_of(cell: Cell) -> str:
    """Say in one sentence what a cell's adversary knows or does."""
    name, own = cell.attack["name"], cell.adversary == cell.defender
    if name == "noise":
        return "Random signs, as large as the attack's: what any perturbation of this size does."
    if name == "square":
        return "A black box: the attacker sees averaged probabilities only, no gradient."
    if not cell.defender.defense:
        return "The network as trained." if own else "The network as trained, on images made for the defended one."
    if not own:
        return "The images are made on the undefended network and transferred."
    return {
        "mask": "The attacker knows the defence and takes the pruning's scale as a constant, as the paper does.",
        "probability": "The attacker's gradient goes through the probabilities of being kept as well.",
        "identity": "The attacker's gradient passes the defence as if it were not there (BPDA).",
    }[str(cell.attack["backward"])]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)

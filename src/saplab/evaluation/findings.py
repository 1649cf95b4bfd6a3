"""What a report says beyond its rows: the verdict, calibration, Monte Carlo convergence and the game, from cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saplab.attacks import Iterative, eps_of
from saplab.attacks.batteries import attack_of
from saplab.defenses.specs import defense_label, has_rules
from saplab.evaluation.evidence import Evidence
from saplab.evaluation.plan import attack_text, is_across
from saplab.evaluation.verdict import Verdict, verdict
from saplab.metrics import Interval, correct, mean_interval
from saplab.metrics.calibration import Calibration, calibration
from saplab.metrics.minimax import Game, game_value
from saplab.runs import BrokenCellError, CellResult, Store
from saplab.runs.cell import Cell, Curve
from saplab.runs.store import join

DIAGRAM_BINS = 10
REPLICATES = 200  # of the game's bootstrap, each of which solves a linear programme


@dataclass(frozen=True)
class CalibrationRow:
    """How far a curve's confidences can be believed at one strength.

    Args:
        curve: the curve's label.
        strength: λ in pixel steps.
        averaged, single: of the probabilities averaged over passes, and of a single pass.
    """

    curve: str
    strength: float
    averaged: Calibration
    single: Calibration


@dataclass(frozen=True)
class Findings:
    """What a run shows.

    Args:
        verdict: is the robustness real?
        calibration: for the curves without random noise, in their order.
        convergence: points for `figures.against_chart`; none where no Monte Carlo budgets were compared.
        games: the minimax game at each strength at which every defender met every adversary.
    """

    verdict: Verdict
    calibration: tuple[CalibrationRow, ...]
    convergence: tuple[dict[str, Any], ...]
    games: Mapping[float, Game]


def find(store: Store) -> Findings | None:
    """Compute the findings from a run's finished curves; None while there are none."""
    finished = {curve.label: joined for curve in store.request.curves if (joined := whole(store, curve)) is not None}
    if not finished:
        return None
    curves = [curve for curve in store.request.curves if curve.label in finished]
    return Findings(
        _verdict(curves, finished),
        tuple(row for curve in curves for row in calibration_rows(curve, finished[curve.label])),
        tuple(_convergence(curves, finished)),
        _games(curves, finished),
    )


def reliability_records(rows: Sequence[CalibrationRow]) -> list[dict[str, Any]]:
    """Give the points of `figures.reliability_chart`: every bin that holds an image."""
    return [{"curve": row.curve, "strength": row.strength, **point} for row in rows for point in _bins(row.averaged)]


def _bins(found: Calibration) -> list[dict[str, Any]]:
    diagram = found.reliability
    total = int(diagram.counts.sum())
    columns = zip(diagram.edges, diagram.edges[1:], diagram.confidence, diagram.accuracy, diagram.counts, strict=False)
    return [
        {"low": float(low), "high": float(high), "confidence": round(float(confidence), 4),
         "accuracy": round(float(accuracy), 4), "images": int(images), "share": int(images) / total}
        for low, high, confidence, accuracy, images in columns
        if images > 0
    ]  # fmt: skip


def whole(store: Store, curve: Curve) -> CellResult | None:
    """Join the results of a curve's cells; None where one is missing or damaged."""
    try:
        return join([store.load(cell) for cell in curve.cells])
    except (FileNotFoundError, BrokenCellError):
        return None


def right(result: CellResult) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Say for each strength and image whether the averaged prediction is right: (L, N)."""
    return np.stack([correct(probs, result.labels) for probs in result.probs])


def _verdict(curves: Sequence[Curve], finished: Mapping[str, CellResult]) -> Verdict:
    kinds: dict[bool, list[Evidence]] = {True: [], False: []}
    for curve in curves:
        cell = curve.cells[0]
        if not is_across(cell):
            kinds[bool(cell.defender.defense)].append(_evidence(curve.label, cell, finished[curve.label]))
    defended, dense = kinds[True], kinds[False]
    labels = finished[curves[0].label].labels
    return verdict(defended, dense, labels) if defended else verdict(dense, (), labels)


def _evidence(label: str, cell: Cell, result: CellResult) -> Evidence:
    order = np.argsort(cell.strengths)
    own = cell.adversary.defense == cell.defender.defense
    name = cell.attack["name"]
    halves = np.stack((result.half, result.other_half(cell.passes)))
    return Evidence(
        label=label,
        attack=name,
        adversary="none" if name in ("noise", "square") else "own" if own else "transfer",
        backward=cell.attack["backward"] if name not in ("noise", "square") and own and has_rules(cell.defender.defense)
        else "",
        samples=cell.attack.get("samples", 1),
        steps=_steps(cell),
        strengths=tuple(sorted(cell.strengths)),
        right=right(result)[order].astype(np.float64),
        halves=halves[:, order],
        half_cosine=_measured(result.half_cosine),
        gradient_norm=_measured(result.gradient_norm),
        loss=cell.attack.get("loss", ""),
    )  # fmt: skip


def _steps(cell: Cell) -> int:
    """Give the attack's gradient steps at its largest strength, or a black box's queries."""
    attack = attack_of(cell.attack)
    if isinstance(attack, Iterative):
        return max(1, attack.steps(eps_of(max(cell.strengths))))
    return int(cell.attack.get("queries", cell.attack.get("steps", 1)))


def _measured(values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """Give None for what was not measured, and 0 for the cosine of a half gradient that is all zero."""
    return None if np.isnan(values).all() else np.nan_to_num(values)


def calibration_rows(curve: Curve, result: CellResult) -> list[CalibrationRow]:
    """Measure a curve's calibration at each strength; none for random noise and curves across."""
    if is_across(curve.cells[0]) or curve.cells[0].attack["name"] == "noise":
        return []
    tables = zip(curve.cells[0].strengths, result.probs, result.single, strict=True)
    return [
        CalibrationRow(curve.label, strength, *(calibration(p, result.labels, DIAGRAM_BINS) for p in (mean, single)))
        for strength, mean, single in tables
    ]


def _convergence(curves: Sequence[Curve], finished: Mapping[str, CellResult]) -> list[dict[str, Any]]:
    """Give the points of the curves that differ in Monte Carlo samples alone, where there are two or more."""
    families: dict[str, list[Curve]] = {}
    for curve in curves:
        cell = curve.cells[0]
        if cell.defender.defense and cell.attack["name"] == "fgsm" and cell.adversary == cell.defender:
            families.setdefault(cell.crafting, []).append(curve)
    family = max(families.values(), key=len, default=[])
    if len(family) < 2:
        return []
    return [
        _point(curve.cells[0].attack["samples"], strength, mean_interval(scores))
        for curve in family
        for strength, scores in zip(curve.cells[0].strengths, right(finished[curve.label]), strict=True)
        if strength > 0
    ]


def _point(samples: int, strength: float, accuracy: Interval) -> dict[str, Any]:
    percents = (round(100 * share, 4) for share in (accuracy.estimate, accuracy.low, accuracy.high))
    return {"value": samples, "strength": strength, **dict(zip(("percent", "from", "to"), percents, strict=True))}


def _games(curves: Sequence[Curve], finished: Mapping[str, CellResult]) -> dict[float, Game]:
    """Solve the game at each strength where two defenders or more met the same two adversaries or more."""
    games = {}
    for strength in sorted({s for curve in curves for s in curve.cells[0].strengths if s > 0}):
        met: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
        names: dict[str, str] = {}
        for curve in curves:
            cell = curve.cells[0]
            if strength in cell.strengths:
                row = right(finished[curve.label])[cell.strengths.index(strength)]
                met.setdefault(cell.images, {})[defense_label(cell.defender.defense)] = row
                names.setdefault(cell.images, _adversary_label(cell))
        if game := _game(met, names):
            games[strength] = game
    return games


def _game(met: Mapping[str, Mapping[str, np.ndarray[Any, Any]]], names: Mapping[str, str]) -> Game | None:
    """Solve for the payoffs of those adversaries whose images every defender met; None where there is no choice."""
    defenders = list(dict.fromkeys(name for rows in met.values() for name in rows))
    adversaries = [images for images, rows in met.items() if len(rows) == len(defenders)]
    if len(defenders) < 2 or len(adversaries) < 2:
        return None
    scores = np.stack([[met[images][name] for images in adversaries] for name in defenders]).astype(np.float64)
    return game_value(scores, defenders, [names[images] for images in adversaries], replicates=REPLICATES)


def _adversary_label(cell: Cell) -> str:
    if cell.attack["name"] == "noise":
        return "random noise"
    source = cell.adversary.defense
    return f"{attack_text(cell.attack, bool(source))} on {defense_label(source)}"

"""What a run shows beyond its rows: the verdict, calibration, Monte Carlo convergence and the game, from cells."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from saplab.evaluation.evidence import Adversary, Evidence
from saplab.evaluation.plan import attack_text
from saplab.evaluation.rows import stored
from saplab.evaluation.verdict import Verdict, verdict
from saplab.metrics import correct, mean_interval
from saplab.metrics.calibration import Calibration, calibration
from saplab.metrics.minimax import Game, game_value
from saplab.runs import Curve, ImageCell, ImageResult, Network, Results
from saplab.runs.results import join
from saplab.system.words import counted

DIAGRAM_BINS: Final = 10
REPLICATES: Final = 200  # of the game's bootstrap, each of which solves a linear programme


@dataclass(frozen=True)
class CalibrationRow:
    """How far a curve's confidences can be believed at one radius.

    Attributes:
        curve: its label.
        strength: λ in pixel steps of 0..255, or ε in the norm's own unit; at least 0.
        averaged: of probabilities averaged over the passes.
        single: of one pass.
    """

    curve: str
    strength: float
    averaged: Calibration
    single: Calibration

    def record(self) -> dict[str, Any]:
        """Return the row as plain values by column; errors in %, with the ends of the 95 % interval of the first."""
        found = self.averaged
        errors = {"ece_percent": found.ece.estimate, "ece_low": found.ece.low, "ece_high": found.ece.high,
                  "adaptive_ece_percent": found.adaptive_ece, "mce_percent": found.mce,
                  "single_pass_ece_percent": self.single.ece.estimate}  # fmt: skip
        return {
            "curve": self.curve, "strength": self.strength, "images": found.ece.n,
            **{name: round(100 * error, 4) for name, error in errors.items()}, "brier": found.brier, "nll": found.nll,
        }  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """What a run shows beyond its rows.

    Attributes:
        verdict: what holds.
        calibration: of each curve without random noise, at each radius.
        convergence: points of accuracy (``percent``, with the ends ``from`` and ``to``, 0 to 100) against Monte Carlo
            samples (``value``) at each λ or ε (``strength``).
        games: at each λ or ε at which every defender met every adversary; payoffs are accuracies, 0 to 1.
    """

    verdict: Verdict
    calibration: tuple[CalibrationRow, ...]
    convergence: tuple[dict[str, Any], ...]
    games: Mapping[float, Game]


@dataclass(frozen=True)
class Finished:
    """A curve of images all of whose cells are stored."""

    curve: Curve
    cell: ImageCell
    result: ImageResult

    def shown(self, eps: float) -> float:
        """Return the number that people read for a radius: λ in pixel steps, or ε in the norm's own unit."""
        return self.cell.threat.shown(eps)

    def right_at(self, eps: float) -> NDArray[np.float64]:
        """Return for each image whether the averaged prediction is right, 0 or 1: (N,)."""
        probs = self.result.probs[self.cell.eps.index(eps)]
        return correct(probs, self.result.labels).astype(np.float64)


def find(store: Results) -> Findings | None:
    """Compute the findings from a run's finished curves of images; None while there are none.

    None also for a study of several defended networks, or of several without a defence, which no one verdict is about.
    """
    finished = list(finished_curves(store, store.request.curves))
    if not finished or len(judged(store)) > 1:
        return None
    calibrated = tuple(row for one in finished for row in calibration_rows(one.curve, one.result))
    missing = sum(isinstance(curve.first, ImageCell) for curve in store.request.curves) - len(finished)
    found = cleared(_verdict(finished), missing, judged(store))
    return Findings(found, calibrated, tuple(_convergence(finished)), _games(finished))


def cleared(found: Verdict, missing: int, networks: Sequence[Network]) -> Verdict:
    """Return a verdict that clears no gradient where attacks are missing, or where it was not seen what they attack."""
    reasons = []
    if missing:
        reasons.append(f"{counted(missing, 'attack')} of this run {'is' if missing == 1 else 'are'} not there")
    if not all(network.comes_again for network in networks):
        reasons.append(
            "the network's draws cannot be made again as predictions are, so that it was not seen whether it answers"
            " otherwise where it is attacked"
        )
    if found.masked is not False or not reasons:
        return found
    why = " and ".join(reasons)
    return replace(found, masked=None, meaning=f"{found.meaning} But {why}: its gradient is not cleared.".strip())


def judged(store: Results) -> tuple[Network, ...]:
    """Return the networks that a verdict on a run would be about: the defended ones, else those without a defence."""
    cells = [curve.first for curve in store.request.curves if isinstance(curve.first, ImageCell)]
    networks = tuple(dict.fromkeys(cell.defender for cell in cells if not cell.across))
    return tuple(network for network in networks if network.defenses) or networks


def finished_curves(store: Results, curves: Iterable[Curve]) -> Iterable[Finished]:
    """Yield the curves of images all of whose cells are stored."""
    for curve in curves:
        if isinstance(curve.first, ImageCell) and (result := whole(store, curve)) is not None:
            yield Finished(curve, curve.first, result)


def whole(store: Results, curve: Curve) -> ImageResult | None:
    """Join the results of a curve's cells; None where one is missing or damaged."""
    found = stored(store, curve.cells)
    return join(list(found.values())) if len(found) == len(curve.cells) else None


def _verdict(finished: Sequence[Finished]) -> Verdict:
    own = [one for one in finished if not one.cell.across]
    defended = [evidence_of(one) for one in own if one.cell.defender.defenses]
    dense = [evidence_of(one) for one in own if not one.cell.defender.defenses]
    labels = finished[0].result.labels
    found = verdict(defended, dense, labels) if defended else verdict(dense, (), labels)
    seeds = max(1 + len(one.curve.repeats) for one in finished)
    if seeds == 1:
        return found
    told = f"All this is of seed {finished[0].cell.seed} alone, one of {seeds}; the table has the mean over them."
    return replace(found, meaning=f"{found.meaning} {told}".strip())


def evidence_of(finished: Finished) -> Evidence:
    """Return a finished curve as the verdict takes it."""
    cell, result = finished.cell, finished.result
    eps, order = tuple(sorted(cell.eps)), np.argsort(cell.eps)
    source: Adversary = "transfer" if cell.transferred else "own"
    adversary = source if cell.attack.knowledge == "gradient" else "none"
    right = np.stack([finished.right_at(radius) for radius in eps])
    one_draw = cell.defender.random and cell.passes == 1  # has no second half that could judge
    halves = None if one_draw else np.stack((result.half, result.other_half(cell.passes)))[:, order]
    hits = result.votes[order][:, np.arange(len(result.labels)), result.labels] if cell.passes > 1 else None
    values = math.prod(result.pictures.shape[2:]) if result.pictures.size else 0
    return Evidence(
        finished.curve.label, cell.attack, adversary, eps, right, cell.adversary.has_rules, halves,
        half_cosine=_measured(result.half_cosine), gradient_norm=_measured(result.gradient_norm),
        random=cell.adversary.random, threat=cell.threat, values=values,
        hits=hits, passes=cell.passes, flat=_flat(result), classes=result.half.shape[-1],
    )  # fmt: skip


def _measured(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return None for what was not measured, and 0 for the cosine of a half gradient that is all zero."""
    return None if np.isnan(values).all() else np.nan_to_num(values)


def _flat(result: ImageResult) -> NDArray[np.float32] | None:
    """Return where the gradient was flat at the start or at some end, NaN where neither is known; None for nowhere."""
    notes = np.stack((result.flat_start, *result.flat_end))
    known = ~np.isnan(notes).all(0)
    return np.where(known, (notes == 1).any(0), np.nan).astype(np.float32) if known.any() else None


def calibration_rows(curve: Curve, result: ImageResult) -> list[CalibrationRow]:
    """Measure a curve's calibration at each radius; none for random noise and curves across."""
    cell = cast(ImageCell, curve.first)
    if cell.across or cell.attack.knowledge == "nothing":
        return []
    tables = zip(cell.eps, result.probs, result.single, strict=True)
    measure = partial(calibration, labels=result.labels, bins=DIAGRAM_BINS)
    return [
        CalibrationRow(curve.label, cell.threat.shown(eps), measure(mean), measure(one)) for eps, mean, one in tables
    ]


def reliability_records(rows: Iterable[CalibrationRow]) -> list[dict[str, Any]]:
    """Return the points of a reliability diagram: every bin that holds an image."""
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


def _convergence(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """Return the points of the curves that differ in Monte Carlo samples alone, where there are two or more."""
    families: dict[str, list[Finished]] = {}
    for one in finished:
        cell, attack = one.cell, one.cell.attack
        own = cell.defender.defenses and cell.adversary == cell.defender
        if own and attack.knowledge == "gradient" and not attack.iterative:
            families.setdefault(cell.together, []).append(one)
    family = max(families.values(), key=len, default=[])
    if len(family) < 2:
        return []
    points = ((one, eps, mean_interval(one.right_at(eps))) for one in family for eps in one.cell.attacked_eps)
    return [
        {"value": one.cell.attack.samples, "strength": one.shown(eps), "percent": round(100 * accuracy.estimate, 4),
         "from": round(100 * accuracy.low, 4), "to": round(100 * accuracy.high, 4)}
        for one, eps, accuracy in points
    ]  # fmt: skip


def _games(finished: Sequence[Finished]) -> dict[float, Game]:
    """Solve the game at each λ at which two defenders or more met the same two adversaries or more."""
    games = {}
    for eps in sorted({eps for one in finished for eps in one.cell.attacked_eps}):
        met: dict[str, dict[str, Finished]] = {}
        for one in finished:
            if eps in one.cell.eps:
                met.setdefault(one.cell.images, {})[one.cell.defender.label] = one
        defenders = list(dict.fromkeys(name for each in met.values() for name in each))
        whole = (each for each in met.values() if len(each) == len(defenders))
        by_label = {
            _adversary_label(each[defenders[0]].cell): each for each in whole
        }  # curves may differ in radii alone
        adversaries, columns = list(by_label), list(by_label.values())
        if min(len(defenders), len(columns)) > 1:
            scores = np.stack([[each[name].right_at(eps) for each in columns] for name in defenders])
            games[columns[0][defenders[0]].shown(eps)] = game_value(
                scores, defenders, adversaries, replicates=REPLICATES
            )
    return games


def _adversary_label(cell: ImageCell) -> str:
    return attack_text(cell) + ("" if cell.attack.knowledge == "nothing" else f" on {cell.adversary.label}")

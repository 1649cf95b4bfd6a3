"""The numbers of a report, one row for a curve at a radius: table, chart, CSV and terminal all show these."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from saplab.attacks import GradientAttack, ThreatModel, strength_of
from saplab.metrics import Counts, Interval, OverSeeds, correct, count, over_seeds
from saplab.metrics.counting import TRIES
from saplab.metrics.scores import Change, Score, mean_score, relative_change
from saplab.runs import BrokenCellError, Cell, Curve, GameCell, ImageCell, ImageResult, Results
from saplab.runs.results import join

_MOST_SHOWN: Final = 7  # curves of one chart


@dataclass(frozen=True)
class Row:
    """One curve of images at one radius.

    Attributes:
        curve: its label.
        cell: the first of the curve's cells, which have network, attack and settings in common.
        eps: the radius, in the unit of the images; at least 0.
        counts: accuracy of the prediction averaged over the passes, of single ones, and counted otherwise.
        seeds: the averaged accuracy over several seeds of the defence, where there are several.
        paper: the paper's accuracy in %, 0 to 100, where it exists.
        figure: that the curve belongs to; "" where a run has but one.
    """

    curve: str
    cell: ImageCell
    eps: float
    counts: Counts
    seeds: OverSeeds | None = None
    paper: float | None = None
    figure: str = ""

    @property
    def across(self) -> bool:
        """Return whether it is the undefended network on images made for the defended one."""
        return self.cell.across

    @property
    def threat(self) -> ThreatModel:
        """Return norm and bounds in which `eps` is measured."""
        return self.cell.threat

    @property
    def strength(self) -> float:
        """Return the number that people read for the radius: λ in pixel steps, or ε in the norm's own unit."""
        return self.threat.shown(self.eps)

    @property
    def averaged(self) -> Interval:
        """Return the accuracy of the prediction averaged over the passes."""
        return self.counts.averaged

    @property
    def single(self) -> Interval:
        """Return the accuracy of single passes."""
        return self.counts.single_pass

    def record(self) -> dict[str, Any]:
        """Return the row as plain values by column; accuracies in %, None for what there is not."""
        counts, seeds = self.counts, self.seeds
        return {
            "curve": self.curve, "strength": self.strength if self.threat.in_steps else None, "images": self.averaged.n,
            **_percents("averaged", self.averaged), **_percents("single_pass", self.single),
            "majority_percent": _rounded(counts.majority.estimate), **_after(counts),
            "seeds": seeds.seeds if seeds else 1,
            "over_seeds_percent": _rounded(seeds.combined.estimate) if seeds else None,
            "over_seeds_low": _rounded(seeds.combined.low) if seeds else None,
            "over_seeds_high": _rounded(seeds.combined.high) if seeds else None,
            "paper_percent": self.paper, "figure": self.figure, "norm": self.threat.norm, "eps": self.eps,
            **_settings(self.cell, self.eps),
        }  # fmt: skip


@dataclass(frozen=True)
class GameRow:
    """One curve of games at one radius, and its change against another curve at the same radius.

    Attributes:
        game: name of its ROM.
        curve: label of the agent and what attacks it.
        eps: the radius, in the unit of the images; at least 0.
        score: mean points, with its interval over episodes and seeds.
        compared: whether there are points to compare with.
        change: relative change as the paper's Table 1 defines it; None where it is blank.
        paper: the paper's change in %, where it exists.
        steps: mean number of the agent's actions in a game.
        cut: games that were stopped at the limit of frames, before they were over.
        figure: that the curve belongs to; "" where a run has but one.
    """

    game: str
    curve: str
    eps: float
    score: Score
    compared: bool
    change: Change | None
    paper: float | None
    steps: float
    cut: int
    figure: str = ""

    @property
    def strength(self) -> float:
        """Return λ, the radius in pixel steps of 0..255."""
        return strength_of(self.eps)

    def record(self) -> dict[str, Any]:
        """Return the row as plain values by column; None for what there is not."""
        score, change = self.score, self.change
        return {
            "game": self.game, "agent": self.curve, "strength": self.strength, "games": score.games,
            "points": score.mean, "points_low": score.low, "points_high": score.high,
            "change_percent": change and change.percent, "change_low": change and change.low,
            "change_high": change and change.high, "paper_percent": self.paper, "steps": self.steps,
            "games_cut": self.cut,
        }  # fmt: skip


AnyRow = Row | GameRow


def names_of(rows: Sequence[AnyRow]) -> Callable[[AnyRow], str]:
    """Return how tables call rows: by their curves, after the figure's name where the rows are of several figures."""
    several = len({row.figure for row in rows}) > 1
    return lambda row: f"{row.figure}: {row.curve}" if several and row.figure else row.curve


@dataclass(frozen=True)
class Summary:
    """All rows of a run, and what there is of it.

    Attributes:
        rows: in the order of the request's curves and their radii; none for a curve without a stored cell.
        made: how each stored cell was made.
        finished: stored cells.
        total: cells of the request.
        problems: damaged and foreign files, one line each.
        damaged: those of them whose cells have to be computed again.
        shown: labels of the curves that a chart draws at first: all where they are few, else the telling ones.
    """

    rows: tuple[AnyRow, ...]
    made: tuple[Mapping[str, Any], ...]
    finished: int
    total: int
    problems: tuple[str, ...]
    damaged: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def images(self) -> tuple[Row, ...]:
        """Return the rows of images."""
        return tuple(row for row in self.rows if isinstance(row, Row))

    @property
    def games(self) -> tuple[GameRow, ...]:
        """Return the rows of games."""
        return tuple(row for row in self.rows if isinstance(row, GameRow))


def summarise(store: Results) -> Summary:
    """Compute a run's numbers from its stored cells, one curve in memory at a time.

    Raises:
        ValueError: no cell is stored yet.
    """
    made: dict[str, Mapping[str, Any]] = {}
    request = store.request
    rows: list[AnyRow] = []
    for curve in request.curves:
        rows += (_game_rows if isinstance(curve.first, GameCell) else _image_rows)(store, curve, made)
    if not made:
        raise ValueError(f"{request.title!r} holds no finished cell yet, so there is nothing to report; run it first")
    survey = store.survey()
    problems = tuple(sorted((*survey.damaged, *survey.foreign)))
    shown = _shown(request.curves, [row for row in rows if isinstance(row, Row)])
    return Summary(
        tuple(rows), tuple(made.values()), len(made), len(request.by_digest), problems, survey.damaged, shown
    )


def stored(store: Results, cells: Iterable[Cell]) -> dict[str, Any]:
    """Return the cells' results that are there, by the cells' digests; damaged ones count as missing."""
    found = {}
    for cell in cells:
        with suppress(FileNotFoundError, BrokenCellError):
            found[cell.digest] = store.load(cell)
    return found


def _image_rows(store: Results, curve: Curve, made: dict[str, Mapping[str, Any]]) -> Iterator[Row]:
    seeds = [_joined(store, cells, made) for cells in curve.seeds]
    first = seeds[0]
    if first is None:
        return
    known = [one for one in seeds if one is not None and np.array_equal(one.examples, first.examples)]
    several = len(known) > 1 and len(first.labels) > 1
    for k, eps in enumerate(curve.eps):
        counts = count(first.probs[k], first.votes[k], first.labels)
        over = over_seeds([correct(one.probs[k], one.labels) for one in known]) if several else None
        threat = curve.first.threat
        paper = curve.paper.get(threat.shown(eps))
        yield Row(curve.label, cast(ImageCell, curve.first), eps, counts, over, paper, curve.figure)


def _joined(store: Results, cells: Sequence[Cell], made: dict[str, Mapping[str, Any]]) -> ImageResult | None:
    found = stored(store, cells)
    made.update((digest, result.made) for digest, result in found.items())
    return join(list(found.values())) if found else None


def _game_rows(store: Results, curve: Curve, made: dict[str, Mapping[str, Any]]) -> Iterator[GameRow]:
    """Yield a row for each radius at which all games are stored."""
    game = cast(GameCell, curve.first).game
    against = next((c for c in store.request.curves if (c.figure, c.label) == (curve.figure, curve.against)), None)
    made.update((digest, result.made) for digest, result in stored(store, curve.every_cell()).items())
    for eps in curve.eps:
        scores, steps = _played(store, curve, eps)
        if not scores:
            continue
        base = scores_at(store, against, eps) if against else None
        change = relative_change(scores, base) if base else None
        paper, score, length = curve.paper.get(strength_of(eps)), mean_score(scores), sum(steps) / len(steps)
        cut = sum(n >= cast(GameCell, curve.first).most_steps for n in steps)
        yield GameRow(game, curve.label, eps, score, bool(base), change, paper, length, cut, curve.figure)


def _played(store: Results, curve: Curve, eps: float) -> tuple[list[float], list[int]]:
    """Return the points and the actions of a curve's games at a radius; none where some are missing or damaged."""
    cells = list(curve.cells_at(eps))
    games = stored(store, cells).values()
    points = [value for game in games for value in game.scores.tolist()]
    return (points, [n for game in games for n in game.steps.tolist()]) if len(games) == len(cells) else ([], [])


def scores_at(store: Results, curve: Curve, eps: float) -> list[float] | None:
    """Return the points of a curve's games at a radius; None where some of them are missing or damaged."""
    return _played(store, curve, eps)[0] or None


def _shown(curves: Sequence[Curve], rows: Sequence[Row]) -> tuple[str, ...]:
    """Choose the curves to draw: of many, noise, the largest of each one-step family, each network's worst curve."""
    drawn = {row.curve: row for row in rows if not row.across}
    if len(drawn) <= _MOST_SHOWN:
        return tuple(drawn)
    cells = {curve.label: cast(ImageCell, curve.first) for curve in curves if curve.label in drawn}
    by_samples = sorted(cells.items(), key=lambda pair: pair[1].attack.samples)
    one_step = ((label, cell) for label, cell in by_samples if not cell.attack.iterative)
    families = {(cell.defender, cell.together): label for label, cell in one_step}
    worst = {
        cells[row.curve].defender: row.curve
        for row in sorted(rows, key=lambda row: -row.averaged.estimate)
        if row.curve in cells and row.eps == _compared_at(cells[row.curve])
    }
    return tuple(label for label in drawn if label in {*families.values(), *worst.values()})


def _compared_at(cell: ImageCell) -> float:
    """Return the radius at which curves are compared: the largest up to half the usual one, else the smallest."""
    return max(
        (eps for eps in cell.attacked_eps if cell.threat.up_to_usual(2 * eps)),
        default=min(cell.attacked_eps, default=0.0),
    )


def _settings(cell: ImageCell, eps: float) -> dict[str, Any]:
    """Return what a curve can be grouped by, as plain values; None where an attack has no such thing."""
    attack, asked = cell.attack, cell.adversary
    gradient = attack.gradient if isinstance(attack, GradientAttack) else None
    return {
        "model": cell.defender.model, "defense": cell.defender.spec,
        "adversary": "self" if not cell.transferred else f"{asked.model} {asked.label}",
        "attack": attack.registered_name, "settings": attack.spec,
        "samples": gradient and gradient.samples, "attack_steps": attack.steps_at(eps),
        "backward": gradient and gradient.backward, "loss": gradient and gradient.loss_name,
        "passes": cell.passes, "seed": cell.seed, "precision": cell.precision,
    }  # fmt: skip


def _percents(name: str, interval: Interval) -> dict[str, float]:
    ends = {"percent": interval.estimate, "low": interval.low, "high": interval.high}
    return {f"{name}_{end}": _rounded(share) for end, share in ends.items()}


def _after(counts: Counts) -> dict[str, float | None]:
    """Return what is left after several tries; None where there are fewer passes."""
    found: dict[str, float | None] = {}
    for tries in TRIES:
        left = counts.after.get(tries)
        nothing = dict.fromkeys(f"after_{tries}_tries_{end}" for end in ("percent", "low", "high"))
        found |= nothing if left is None else _percents(f"after_{tries}_tries", left)
    return found


def _rounded(share: float) -> float:
    return round(100 * share, 4)

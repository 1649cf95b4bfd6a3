"""Defence as a zero-sum game: the value of a payoff table, and both players' optimal mixtures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.metrics.equilibrium import Equilibrium, equilibrium, has_another
from saplab.metrics.intervals import Interval
from saplab.metrics.resampling import resamples


@dataclass(frozen=True, eq=False)
class Game:
    """An equilibrium of the game in which the defender wants a high payoff and the adversary a low one.

    The intervals are 95 % bootstraps over images, percentiles for the probabilities; a payoff matrix without images has
    none. The best of several equal rows looks better than each is, and in a resample once more; so the value's interval
    lies as far on the other side (the basic bootstrap). `degenerate` names intervals of width 0 ("value", or a label),
    which no resample moved: they say how firm a choice is, not how exact.

    Attributes:
        defenders: labels of the D rows.
        adversaries: labels of the A columns.
        payoff: (D, A) means, in the unit of what was given: shares of 0 to 1 for accuracies.
        value: payoff of the equilibrium, in the payoff's unit.
        defender: (D,) probabilities with which the defender should draw a row; they sum to 1.
        adversary: (A,) probabilities with which the adversary should draw a column; they sum to 1.
        several: who has more than one optimal mixture: ``defender``, ``adversary``, both or neither.
        value_interval: of `value`; None without images.
        defender_intervals: of each of the defender's probabilities, 0 to 1; empty without images.
        adversary_intervals: of each of the adversary's.
        degenerate: names of the intervals of width 0.
    """

    defenders: tuple[str, ...]
    adversaries: tuple[str, ...]
    payoff: NDArray[np.float64]
    value: float
    defender: NDArray[np.float64]
    adversary: NDArray[np.float64]
    several: tuple[str, ...]
    value_interval: Interval | None = None
    defender_intervals: tuple[Interval, ...] = ()
    adversary_intervals: tuple[Interval, ...] = ()
    degenerate: tuple[str, ...] = ()


Payoff = ArrayLike | Mapping[str, Mapping[str, ArrayLike]]


def game_value(
    payoff: Payoff,
    defenders: Sequence[str] | None = None,
    adversaries: Sequence[str] | None = None,
    *,
    seed: int = 0,
    replicates: int = 1000,
) -> Game:
    """Find the minimax equilibrium of the defender's and the adversary's game by linear programming.

    Source: section 3 of the paper, eq. 3, with both players' choices limited to the table's; von Neumann 1928; as a
    linear programme: Dantzig 1951. A mixed defence draws one of the defences anew for each prediction; the adversary
    knows the mixture but not the draw, and plays one attack for all images. Raises ValueError for payoffs that are not
    finite, and labels that do not fit or repeat.

    Args:
        payoff: accuracy of each defender under each adversary (D, A), or the score of each image (D, A, N); or a dict
            by defender of dicts by adversary of either.
        defenders: labels; ``defender 1``, … by default; of a dict the order of its own.
        adversaries: labels; ``adversary 1``, … by default; of a dict the order of its own.
        seed: of the bootstrap over images.
        replicates: of the bootstrap.

    Examples:
        >>> game_value([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]).defender.round(3).tolist()
        [0.333, 0.333, 0.333]
        >>> game_value({"sap": {"fgsm": 0.5, "pgd": 0.1}, "dense": {"fgsm": 0.2, "pgd": 0.15}}).defenders
        ('sap', 'dense')
    """
    if isinstance(payoff, Mapping):
        payoff, defenders, adversaries = _table(payoff, defenders, adversaries)
    try:
        table = np.asarray(payoff, np.float64)
    except (TypeError, ValueError):
        raise ValueError("`payoff` must be numbers of the shape (D, A) or (D, A, N), or a dict of dicts") from None
    if table.ndim not in (2, 3) or table.size == 0:
        raise ValueError(f"`payoff` must have the shape (D, A) or (D, A, N), got {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("`payoff` must be finite, got NaN or infinite entries")
    rows = _labels(defenders, table.shape[0], "defender", "defenders")
    columns = _labels(adversaries, table.shape[1], "adversary", "adversaries")
    matrix = table if table.ndim == 2 else table.mean(axis=2)
    value, x, y = found = equilibrium(matrix)
    sides = (("defender", x, matrix), ("adversary", y, -matrix.T))
    several = tuple(name for name, mixture, game in sides if has_another(mixture, game))
    if table.ndim == 2:
        return Game(rows, columns, matrix, value, x, y, several=several)
    intervals = _bootstrapped(table, found, seed, replicates)
    names = zip(("value", *rows, *columns), intervals, strict=True)
    fixed = tuple(name for name, interval in names if interval.low == interval.high)
    of_rows, of_columns = intervals[1 : 1 + len(rows)], intervals[1 + len(rows) :]
    return Game(rows, columns, matrix, value, x, y, several, intervals[0], of_rows, of_columns, fixed)


def _table(
    payoff: Mapping[str, Mapping[str, ArrayLike]], defenders: Sequence[str] | None, adversaries: Sequence[str] | None
) -> tuple[ArrayLike, Sequence[str], Sequence[str]]:
    """Return the table of a dict, and its labels."""
    rows = list(payoff)
    columns = list(payoff[rows[0]]) if rows and isinstance(payoff[rows[0]], Mapping) else []
    for row in rows:
        own = payoff[row]
        if not columns or not isinstance(own, Mapping) or set(own) != set(columns):
            got = sorted(own) if isinstance(own, Mapping) else own
            raise ValueError(f"`payoff` must give each defender the same adversaries, {columns}, got {got} for {row!r}")
    rows, columns = _ordered(rows, defenders, "defenders"), _ordered(columns, adversaries, "adversaries")
    table: Any = [[payoff[row][column] for column in columns] for row in rows]
    return table, rows, columns


def _ordered(names: list[str], wanted: Sequence[str] | None, argument: str) -> list[str]:
    """Return a dict's names in the order that is wanted, if one is."""
    if wanted is not None and sorted(wanted) != sorted(names):
        raise ValueError(f"`{argument}` must be the names in `payoff` in some order, {list(names)}, got {list(wanted)}")
    return list(wanted) if wanted is not None else names


def _labels(given: Sequence[str] | None, count: int, kind: str, name: str) -> tuple[str, ...]:
    labels = tuple(given) if given is not None else tuple(f"{kind} {k}" for k in range(1, count + 1))
    if len(labels) != count or len(set(labels)) < count:
        raise ValueError(f"`{name}` must be {count} different labels, got {labels}")
    return labels


def _bootstrapped(table: NDArray[np.float64], found: Equilibrium, seed: int, replicates: int) -> tuple[Interval, ...]:
    """Return the intervals of the value, of the row weights and of the column weights, in this order."""
    images = table.shape[2]
    drawn = np.array([np.hstack(equilibrium(table @ w / images, found)) for w in resamples(images, replicates, seed)])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0, method="inverted_cdf")
    value, least, most = found[0], table.mean(axis=2).min(), table.mean(axis=2).max()
    low[0], high[0] = (float(np.clip(2 * value - end, least, most)) for end in (high[0], low[0]))  # see `Game`
    ends = zip(np.hstack(found), low, high, strict=True)
    return tuple(Interval(float(estimate), float(a), float(b), images) for estimate, a, b in ends)

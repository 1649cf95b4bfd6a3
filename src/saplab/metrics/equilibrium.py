"""Minimax equilibria of matrix games, by linear programming."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Mixture = NDArray[np.float64]
Equilibrium = tuple[float, Mixture, Mixture]

GAP: Final = 1e-6  # largest gain from leaving an equilibrium that counts as rounding, as a share of the table's range
ANOTHER: Final = 1e-4  # probability that a mixture must move before it counts as another


def equilibrium(matrix: NDArray[np.float64], near: Equilibrium | None = None) -> Equilibrium:
    """Return the value, the row mixture (maximising) and the column mixture (minimising) of a matrix game (D, A).

    The row player maximises v over x >= 0 with Σx = 1 and (x @ matrix)[a] >= v for every column a; the column player's
    mixture is the dual solution (Dantzig 1951).

    If the rows and columns of `near`, an equilibrium of a similar table, fit this one too, no programme is solved.
    Raises RuntimeError if the solver fails, or a player could gain more than rounding by leaving the equilibrium.
    """
    guess = _on_supports(matrix, near[1] > GAP, near[2] > GAP) if near else None
    if guess and _gain(matrix, *guess) <= GAP:
        return _valued(matrix, *guess)
    rows, columns = matrix.shape
    slopes = np.column_stack([-_scaled(matrix).T, np.ones(columns)])
    found = _solve(np.append(np.zeros(rows), -1.0), slopes, np.zeros(columns))
    x, y = (np.maximum(part, 0.0) for part in (found.x[:rows], -found.ineqlin.marginals))
    x, y = x / x.sum(), y / y.sum()
    if not _gain(matrix, x, y) <= GAP:
        raise RuntimeError(f"no equilibrium: a player gains {_gain(matrix, x, y):g} of the range by leaving it")
    return _valued(matrix, x, y)


def has_another(mixture: Mixture, matrix: NDArray[np.float64]) -> bool:
    """Return whether another row mixture guarantees as much as this one of an `equilibrium`.

    The solver returns a vertex of the set of optimal mixtures, so another one loosens a constraint that binds here: a
    probability of 0, or a column at the value. The loosest is found by one more linear programme (Appa 2002, "On the
    uniqueness of solutions to linear programs").
    """
    scaled = _scaled(matrix)
    payoffs = mixture @ scaled
    value = payoffs.min()
    unused, tight = mixture < GAP, payoffs < value + GAP
    looseness = unused + scaled[:, tight].sum(axis=1)
    slopes = np.column_stack([-scaled.T, np.zeros(scaled.shape[1])])
    found = _solve(np.append(-looseness, 0.0), slopes, np.full(scaled.shape[1], -value + GAP / 10))
    return bool(-found.fun - looseness @ mixture > ANOTHER)


def _on_supports(
    matrix: NDArray[np.float64], rows: NDArray[np.bool_], columns: NDArray[np.bool_]
) -> tuple[Mixture, Mixture] | None:
    """Return the mixtures of these rows and columns that make the other player indifferent; None if there are none."""
    size = int(rows.sum())
    if size != columns.sum():
        return None
    square = matrix[np.ix_(rows, columns)]
    ones, last = np.ones((size, 1)), np.append(np.zeros(size), 1.0)
    mixtures = []
    for table, kept in ((square.T, rows), (square, columns)):
        try:
            part = np.linalg.solve(np.block([[table, -ones], [ones.T, np.zeros((1, 1))]]), last)[:-1]
        except np.linalg.LinAlgError:
            return None
        if part.min() < 0:
            return None
        mixtures.append(np.zeros(len(kept)))
        mixtures[-1][kept] = part
    return mixtures[0], mixtures[1]


def _solve(cost: NDArray[np.float64], slopes: NDArray[np.float64], limits: NDArray[np.float64]) -> Any:
    """Minimise cost @ (x, v) over probabilities x and any v with slopes @ (x, v) <= limits."""
    from scipy.optimize import linprog  # slow to import, and only games need it

    size = len(cost) - 1
    found = linprog(
        cost, A_ub=slopes, b_ub=limits, A_eq=np.append(np.ones(size), 0.0)[None], b_eq=[1.0],
        bounds=[(0, None)] * size + [(None, None)], method="highs",
    )  # fmt: skip
    if not found.success:
        raise RuntimeError(f"the linear programme was not solved: {found.message}")
    return found


def _scaled(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((matrix - matrix.min()) / (float(np.ptp(matrix)) or 1.0))


def _valued(matrix: NDArray[np.float64], x: Mixture, y: Mixture) -> Equilibrium:
    return float(x @ matrix @ y), x, y


def _gain(matrix: NDArray[np.float64], x: Mixture, y: Mixture) -> float:
    """Return what both players could gain by best replies, as a share of the table's range (the duality gap)."""
    scaled = _scaled(matrix)
    return float((scaled @ y).max() - (x @ scaled).min())
